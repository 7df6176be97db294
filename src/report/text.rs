//! Words, durations, sizes and tables, the same in every place where a person reads them.

use crate::run::event::Event;

/// Returns a duration as a person says it: `0.04 s`, `3.2 s`, `3 min 12 s`, `2 h 5 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match seconds {
        short if short < 0.1 => format!("{short:.2} s"),
        short if short < 59.95 => format!("{short:.1} s"),
        _ if whole < 3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Returns a number of bytes as a person says it, in powers of 1024.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Returns a number with its noun: `1 stage`, `2 stages`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Returns a measured value with its name: `loss 1.0910`, `learning rate 2.00e-4`.
pub fn measured(name: &str, value: f64) -> String {
    let name = name.replace('_', " ");
    // Four places are none of a learning rate.
    if value == 0.0 || value.abs() >= 0.01 { format!("{name} {value:.4}") } else { format!("{name} {value:.2e}") }
}

/// Returns a name in at most so many letters, at least 3; of a longer one the middle is left out, as names of points differ at their
/// ends.
pub fn shortened(name: &str, most: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= most {
        return name.to_owned();
    }
    let behind = (most - 1) / 2;
    let before = most - 1 - behind;
    let (first, last) = (letters[..before].iter(), letters[letters.len() - behind..].iter());
    first.chain(std::iter::once(&'…')).chain(last).collect()
}

/// Returns a table with a line of titles, two spaces between columns, each line ended.
pub fn table(titles: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([titles[column].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let mut text = String::new();
    let titles_row: Vec<String> = titles.iter().map(|(title, _)| (*title).to_owned()).collect();
    for row in std::iter::once(&titles_row).chain(rows) {
        let cells = row.iter().zip(titles).zip(&widths).map(|((cell, (_, align)), width)| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Returns what a person reads when an event is worth a line, without the last line end.
pub fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::Started { stage, reason, .. } => format!("{stage}: runs ({reason})"),
        Event::Waiting { stage, host, process } => {
            format!("{stage}: waits for process {process} on {host}, which does the same work")
        }
        Event::Submitted { stage, job, adopted: true, .. } => format!("{stage}: has job {job} already"),
        Event::Submitted { stage, job, parts, after, adopted: false } => {
            let tasks = if *parts > 1 { format!(" of {}", count(*parts as usize, "task")) } else { String::new() };
            let after: Vec<String> = after.iter().map(u64::to_string).collect();
            let after = if after.is_empty() { String::new() } else { format!(", after {}", after.join(", ")) };
            format!("{stage}: job {job}{tasks}{after}")
        }
        Event::Done { stage, seconds, .. } => format!("{stage}: done in {}", duration(*seconds)),
        Event::Failed { stage, message, help, seconds } => {
            let help = help.as_ref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
            let message = message.replace('\n', "\n    ");
            format!("error: stage `{stage}` failed after {}\n  cause: {message}{help}", duration(*seconds))
        }
        Event::Skipped { stage, reason } => format!("{stage}: skipped ({reason})"),
        Event::Warning { stage: Some(stage), message } => format!("warning: stage `{stage}`: {message}"),
        Event::Warning { stage: None, message } => format!("warning: {message}"),
        Event::RunStarted { .. }
        | Event::Cached { .. }
        | Event::ActionDone { .. }
        | Event::Progress { .. }
        | Event::Metric { .. }
        | Event::RunFinished { .. } => return None,
    })
}

/// Returns what came of a run, in words; of its last event.
pub fn ending(event: &Event) -> Option<String> {
    let Event::RunFinished { ran, cached, failed, skipped, interrupted, .. } = event else { return None };
    let all = count(ran + cached + failed + skipped, "stage");
    let end = if *interrupted { ", interrupted" } else { "" };
    Some(format!("{all}: {ran} ran, {cached} cached, {failed} failed, {skipped} skipped{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_well() {
        let texts: Vec<String> = [0.04, 0.5, 59.9, 59.96, 192.0, 7500.0].into_iter().map(duration).collect();
        assert_eq!(texts, ["0.04 s", "0.5 s", "59.9 s", "1 min 0 s", "3 min 12 s", "2 h 5 min"]);
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(count(1, "stage"), "1 stage");
        assert_eq!(shortened("score@radius=3", 14), "score@radius=3");
        assert_eq!(shortened("score@radius=3/seed=0", 14), "score@r…seed=0");
        let values = [("loss", 1.09), ("loss", 0.0), ("learning_rate", 0.000_189_2), ("loss", -0.002)];
        let texts = values.map(|(name, value)| measured(name, value));
        assert_eq!(texts, ["loss 1.0900", "loss 0.0000", "learning rate 1.89e-4", "loss -2.00e-3"]);
    }

    #[test]
    fn tables_have_even_columns() {
        let rows = vec![vec!["a".to_owned(), "1.0".to_owned()], vec!["longer".to_owned(), "10.0".to_owned()]];
        let text = table(&[("stage", Align::Left), ("mIoU", Align::Right)], &rows);
        assert_eq!(text, "stage   mIoU\na        1.0\nlonger  10.0\n");
    }
}
