//! Members of lists in a JSON file that is too large to hold: one after the other, each with its place. Knows nothing of what they
//! say; where a member ends is found by counting brackets.

use std::io::Read;

/// How much of the file is held.
const BUFFER: usize = 1 << 20;

/// A member that is longer than this, in bytes, is refused.
const LONGEST: usize = 64 << 20;

/// A JSON file that is read from front to back.
pub(super) struct Pieces<R> {
    reader: R,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    /// Where in the file the buffer begins.
    offset: u64,
}

impl<R: Read> Pieces<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; BUFFER], at: 0, end: 0, offset: 0 }
    }

    /// Goes through an object and calls `each` with every member of its lists of these names: name, place in the file, bytes.
    /// Other values are passed over.
    pub(super) fn each_member(
        &mut self,
        lists: &[&'static str],
        mut each: impl FnMut(&'static str, u64, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut value = Vec::new();
        self.expect(b'{')?;
        if self.accept(b'}')? {
            return Ok(());
        }
        loop {
            value.clear();
            self.value(Some(&mut value))?;
            let key: String = serde_json::from_slice(&value).map_err(|_| self.wrong("a key is due"))?;
            self.expect(b':')?;
            match lists.iter().find(|list| **list == key) {
                Some(list) => {
                    self.expect(b'[')?;
                    let mut more = !self.accept(b']')?;
                    while more {
                        self.blank()?;
                        let place = self.offset + self.at as u64;
                        value.clear();
                        self.value(Some(&mut value))?;
                        each(list, place, &value)?;
                        more = self.accept(b',')?;
                        if !more {
                            self.expect(b']')?;
                        }
                    }
                }
                None => self.value(None)?,
            }
            if !self.accept(b',')? {
                return self.expect(b'}');
            }
        }
    }

    fn wrong(&self, what: &str) -> String {
        format!("at byte {}: {what}", self.offset + self.at as u64)
    }

    /// Makes sure that there is a byte, and returns it.
    fn peek(&mut self) -> Result<u8, String> {
        if self.at == self.end {
            self.offset += self.end as u64;
            (self.at, self.end) = (0, 0);
            self.end = loop {
                match self.reader.read(&mut self.buffer) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.to_string()),
                    Ok(0) => return Err(self.wrong("the file ends too early")),
                    Ok(read) => break read,
                }
            };
        }
        Ok(self.buffer[self.at])
    }

    fn blank(&mut self) -> Result<(), String> {
        while matches!(self.peek()?, b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
        Ok(())
    }

    fn accept(&mut self, sign: u8) -> Result<bool, String> {
        self.blank()?;
        let found = self.peek()? == sign;
        self.at += usize::from(found);
        Ok(found)
    }

    fn expect(&mut self, sign: u8) -> Result<(), String> {
        if self.accept(sign)? { Ok(()) } else { Err(self.wrong(&format!("`{}` is due", sign as char))) }
    }

    /// Takes a value of any kind. Its bytes are added to `kept`; whether they are JSON inside is for who reads them to say.
    fn value(&mut self, mut kept: Option<&mut Vec<u8>>) -> Result<(), String> {
        self.blank()?;
        let (mut depth, mut text, mut escaped, mut begun) = (0_usize, false, false, false);
        loop {
            self.peek()?;
            let held = &self.buffer[self.at..self.end];
            let mut taken = 0;
            let mut done = false;
            for &byte in held {
                // A number or a word ends before what follows it.
                if !text && depth == 0 && matches!(byte, b'}' | b']' | b',' | b' ' | b'\t' | b'\r' | b'\n') {
                    if !begun {
                        return Err(self.wrong("a value is due"));
                    }
                    done = true;
                    break;
                }
                begun = true;
                taken += 1;
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if text => escaped = true,
                    b'"' => {
                        text = !text;
                        done = !text && depth == 0;
                    }
                    b'{' | b'[' if !text => depth += 1,
                    b'}' | b']' if !text => {
                        depth -= 1;
                        done = depth == 0;
                    }
                    _ => {}
                }
                if done {
                    break;
                }
            }
            if let Some(kept) = &mut kept {
                if kept.len() + taken > LONGEST {
                    return Err(self.wrong("a value is longer than 64 MiB"));
                }
                kept.extend_from_slice(&held[..taken]);
            }
            self.at += taken;
            if done {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(&mut buffer[..1])
        }
    }

    fn members(text: &str) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        Pieces::new(Slow(text.as_bytes())).each_member(&["a", "b"], |list, place, bytes| {
            assert_eq!(&text.as_bytes()[place as usize..][..bytes.len()], bytes);
            all.push(format!("{list}{}", String::from_utf8_lossy(bytes)));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn members_are_found_whatever_lies_between() {
        let text = r#" { "x" : [1, {"a": [9]}], "a" : [ {"k": "}\"]"} , 12,"\\",[ ] ,true], "y":"a","z" : -1e5,"b":[],"a":[3 ] } "#;
        let found = members(text).expect("readable");
        assert_eq!(found, [r#"a{"k": "}\"]"}"#, "a12", r#"a"\\""#, "a[ ]", "atrue", "a3"]);
        assert_eq!(members("{}"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_object_of_lists_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1}",
            "{\"a\":[1,]}",
            "{\"a\":[1 2]}",
            "{\"a\":[1",
            "{1:2}",
            "{\"x\":}",
            "{\"a\":[\"1]}",
        ] {
            assert!(members(text).is_err(), "{text}");
        }
    }
}
