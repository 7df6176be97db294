//! The script of a job, as text. Submits nothing.

use std::path::Path;

use super::profile::{Profile, Request};
use crate::plan::Step;
use crate::run::slots::Names;

/// What all jobs of a run share.
#[derive(Clone, Debug)]
pub struct Site<'a> {
    /// What the site's Slurm wants to be told.
    pub profile: &'a Profile,
    /// This program.
    pub program: &'a Path,
    /// The folder for everything that the jobs of the run write; the plan file lies in it.
    pub folder: &'a Path,
    /// The name of the run's folder.
    pub run: &'a str,
    /// What tells this plan from others, whoever carries it out.
    pub identity: &'a str,
    /// The device of jobs that compute on one.
    pub devices: &'a Names,
}

/// The name of the plan file.
pub const PLAN: &str = "plan.json";

/// First word of the comment of every job of this program.
const MARK: &str = "orandflow";

/// What the comment of a job says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) identity: String,
    pub(super) step: usize,
    pub(super) parts: u32,
    pub(super) run: String,
}

impl Mark {
    /// Returns the comment.
    fn text(&self) -> String {
        format!("{MARK} {} {} {} {}", self.identity, self.step, self.parts, self.run)
    }

    /// Reads a comment; `None` if it is not one of this program.
    pub(super) fn read(comment: &str) -> Option<Self> {
        let words: Vec<&str> = comment.split_whitespace().collect();
        let [MARK, identity, step, parts, run] = words[..] else { return None };
        let (step, parts) = (step.parse().ok()?, parts.parse().ok()?);
        Some(Self { identity: identity.to_owned(), step, parts, run: run.to_owned() })
    }
}

/// Returns a step's name for files: its place in the plan, and what of its name any file system takes.
pub fn label(index: usize, step: &Step) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' };
    let name: String = step.name.chars().map(plain).take(60).collect();
    format!("{index:03}-{name}")
}

/// Returns a word as a shell reads it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

impl Site<'_> {
    /// Returns how many GPUs a job of a step has.
    fn gpus(&self, step: &Step) -> usize {
        self.devices.wanted(step)
    }

    /// Returns the devices of a job, as the program inside it counts them: Slurm shows it its own cards alone.
    fn device(&self, gpus: usize) -> String {
        match (gpus, self.devices.slots.first()) {
            (0, _) | (_, None) => self.devices.processor.clone(),
            (_, Some(card)) => {
                let kind = card.rsplit_once(':').map_or(card.as_str(), |(kind, _)| kind);
                (0..gpus).map(|number| format!("{kind}:{number}")).collect::<Vec<_>>().join(",")
            }
        }
    }

    /// Returns the script of a step that is cut into `parts` jobs.
    pub fn script(&self, index: usize, step: &Step, pipeline: &str, parts: u32) -> String {
        let gpus = self.gpus(step);
        let Request { partition, account, flags, setup, gres, resources } = self.profile.request(step, gpus);
        let label = label(index, step);
        let log = if parts > 1 { format!("{label}-%A_%a.log") } else { format!("{label}-%j.log") };
        let mark = Mark { identity: self.identity.to_owned(), step: index, parts, run: self.run.to_owned() };
        let mut options = vec![
            format!("--job-name={pipeline}.{}", step.name),
            format!("--comment={}", mark.text()),
            format!("--output={}", self.folder.join("logs").join(log).display()),
            "--open-mode=append".to_owned(),
            "--nodes=1".to_owned(),
            "--ntasks=1".to_owned(),
            "--requeue".to_owned(),
            "--kill-on-invalid-dep=yes".to_owned(),
        ];
        if parts > 1 {
            let most = self.profile.concurrent.map(|most| format!("%{most}")).unwrap_or_default();
            options.push(format!("--array=0-{}{most}", parts - 1));
        }
        let mut notice = self.profile.notice.0.as_secs();
        if let Some(time) = resources.time {
            // Slurm counts in minutes.
            options.push(format!("--time={}", time.as_secs().div_ceil(60)));
            notice = notice.min(time.as_secs().next_multiple_of(60) / 2);
        }
        // To the shell of the script, whose place the program takes.
        options.push(format!("--signal=B:USR1@{notice}"));
        options.extend(resources.cpus.map(|cpus| format!("--cpus-per-task={cpus}")));
        options.extend(resources.memory.map(|memory| format!("--mem={}M", memory.div_ceil(1 << 20))));
        if gpus > 0 {
            options.push(format!("--gres={gres}:{gpus}"));
        }
        options.extend(partition.map(|name| format!("--partition={name}")));
        options.extend(account.map(|name| format!("--account={name}")));
        options.extend(flags);
        let mut script = "#!/bin/bash\n".to_owned();
        for option in options {
            script.push_str(&format!("#SBATCH {}\n", quoted(&option)));
        }
        script.push('\n');
        for line in setup {
            script.push_str(&line);
            script.push('\n');
        }
        let mut words = vec![
            "exec".to_owned(),
            quoted(&self.program.display().to_string()),
            "exec".to_owned(),
            quoted(&self.folder.join(PLAN).display().to_string()),
            "--stage".to_owned(),
            quoted(&step.name),
            "--devices".to_owned(),
            quoted(&self.device(gpus)),
            "--requeues".to_owned(),
            self.profile.requeues.to_string(),
            "--settle".to_owned(),
            self.profile.settle.0.as_secs().to_string(),
        ];
        if parts > 1 {
            words.extend(["--part \"$SLURM_ARRAY_TASK_ID\" --parts".to_owned(), parts.to_string()]);
        }
        script.push_str(&words.join(" "));
        script.push('\n');
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quoted("a/b-1.toml"), "a/b-1.toml");
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
    }

    #[test]
    fn a_comment_is_read_as_it_was_written() {
        let mark = Mark { identity: "abc".into(), step: 3, parts: 8, run: "20261124-204306-ab12".into() };
        assert_eq!(Mark::read(&mark.text()), Some(mark));
        assert_eq!(Mark::read("somebody else's 1 2 3 4"), None);
    }
}
