//! How fast something goes, and how long it will take.

use super::text::duration;

/// How much of the past counts: a difference this old weighs 1/e of a new one, in seconds.
const MEMORY: f64 = 20.0;

/// The pace of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    at: f64,
    done: u64,
    left: u64,
    /// Units per second, smoothed.
    rate: Option<f64>,
}

impl Pace {
    /// Begins at a time, in seconds, with so much done already.
    pub fn from(at: f64, done: u64) -> Self {
        Self { at, done, left: 0, rate: None }
    }

    /// Notes how much is done at a time.
    pub fn step(&mut self, at: f64, done: u64, total: u64) {
        self.left = total.saturating_sub(done);
        let (took, more) = (at - self.at, done.saturating_sub(self.done));
        if took <= 0.0 || more == 0 {
            return;
        }
        let now = more as f64 / took;
        let keep = (-took / MEMORY).exp();
        self.rate = Some(self.rate.map_or(now, |rate| keep * rate + (1.0 - keep) * now));
        (self.at, self.done) = (at, done);
    }

    /// Returns units per second, once it is known.
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Returns how long the rest will take, in seconds.
    pub fn left(&self) -> Option<f64> {
        Some(self.left as f64 / self.rate.filter(|rate| *rate > 0.0)?)
    }

    /// Returns both for people: `, 12.3/s, 2 min 5 s left`; empty before anything is known.
    pub fn text(&self) -> String {
        let Some((rate, left)) = self.rate().zip(self.left()) else { return String::new() };
        let rate = match rate {
            fast if fast >= 100.0 => format!("{fast:.0}/s"),
            medium if medium >= 1.0 => format!("{medium:.1}/s"),
            slow => format!("{:.1}/min", 60.0 * slow),
        };
        if self.left == 0 { format!(", {rate}") } else { format!(", {rate}, {} left", duration(left)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_pace_is_found_and_a_new_one_comes_through() {
        let mut pace = Pace::from(10.0, 5);
        assert_eq!(pace.text(), "");
        for second in 1..=10 {
            pace.step(10.0 + f64::from(second), 5 + 4 * second as u64, 245);
        }
        assert!((pace.rate().expect("it is known") - 4.0).abs() < 1e-9);
        assert_eq!(pace.text(), ", 4.0/s, 50.0 s left");
        pace.step(120.0, 145, 245);
        assert!((pace.rate().expect("it is known") - 1.0).abs() < 0.03, "{pace:?}");
    }
}
