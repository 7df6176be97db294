//! Who a process is, so that others on this machine or elsewhere can tell whether it still lives. Writes nothing.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::digest::Digest;

/// A process: `HOST.PLACE.PROCESS.START`.
///
/// The place is made of the boot and of the space of process numbers (containers have their own), so that a process number is
/// only ever looked up where it means something. The start time tells a process from a later one with its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    host: String,
    place: String,
    process: u32,
    start: u64,
}

impl Owner {
    /// Returns this process.
    pub fn this() -> &'static Self {
        static THIS: OnceLock<Owner> = OnceLock::new();
        THIS.get_or_init(|| {
            let process = std::process::id();
            let start = look_up(process).map_or(0, |(start, _)| start);
            Self { host: host().to_owned(), place: place().to_owned(), process, start }
        })
    }

    /// Returns the name of its machine.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns its number.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Says whether it lives; `None` where that cannot be told from here.
    pub fn lives(&self) -> Option<bool> {
        if self.host != host() || self.place != place() || self.place == NOWHERE {
            return None;
        }
        // A process that has ended and that its parent has not asked about yet is a zombie: dead.
        Some(look_up(self.process).is_some_and(|(start, state)| start == self.start && !matches!(state, 'Z' | 'X')))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}.{}", self.host, self.place, self.process, self.start)
    }
}

impl FromStr for Owner {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = name.split('.').collect();
        let [host, place, process, start] = parts[..] else { return Err(()) };
        Ok(Self {
            host: host.to_owned(),
            place: place.to_owned(),
            process: process.parse().map_err(drop)?,
            start: start.parse().map_err(drop)?,
        })
    }
}

/// The place where the system does not say what it is.
const NOWHERE: &str = "0";

/// Returns what tells this boot and space of process numbers from all others.
fn place() -> &'static str {
    static PLACE: OnceLock<String> = OnceLock::new();
    PLACE.get_or_init(|| {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let space = std::fs::read_link("/proc/self/ns/pid");
        match (boot, space) {
            (Ok(boot), Ok(space)) => {
                let text = format!("{}{}", boot.trim(), space.display());
                Digest::of(text.as_bytes()).short()
            }
            _ => NOWHERE.to_owned(),
        }
    })
}

/// Returns start time (in ticks since the boot) and state of a process, as `/proc/N/stat` has them; `None` if there is none.
fn look_up(process: u32) -> Option<(u64, char)> {
    let text = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat")).ok()?;
    // The second field is the name in brackets, which may hold anything; the state follows it as the third field.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

/// Returns the name of this machine.
pub fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        ["/proc/sys/kernel/hostname", "/etc/hostname"]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .or_else(|| std::env::var("HOSTNAME").ok())
            .map(|name| name.trim().replace(['/', '.'], "-"))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "unknown".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_its_name_can_be_read() {
        let this = Owner::this();
        assert_eq!(this.to_string().parse::<Owner>().as_ref(), Ok(this));
        if this.place != NOWHERE {
            assert_eq!(this.lives(), Some(true));
            assert_eq!(Owner { start: this.start + 1, ..this.clone() }.lives(), Some(false), "another with its number");
            // The greatest process number on 64-bit Linux is 4,194,304.
            assert_eq!(Owner { process: 4_194_999, ..this.clone() }.lives(), Some(false));
        }
        assert_eq!(Owner { host: "elsewhere".into(), ..this.clone() }.lives(), None);
        assert_eq!(Owner { place: "other".into(), ..this.clone() }.lives(), None);
        assert!("a.b".parse::<Owner>().is_err() && "a.b.c.d".parse::<Owner>().is_err());
    }
}
