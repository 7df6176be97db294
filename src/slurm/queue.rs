//! What Slurm's programs say and are told: sbatch, squeue, sacct, scancel, scontrol. Knows no plan.

use std::path::Path;
use std::process::Command;

/// A job, or some tasks of an array, as squeue lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The job's number; an array's as a whole.
    pub id: u64,
    /// Its state, such as `RUNNING`.
    pub state: String,
    /// Its comment.
    pub comment: String,
}

/// The states in which nothing more will happen to a job.
const ENDED: [&str; 11] = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "SPECIAL_EXIT",
    "TIMEOUT",
];

impl Listed {
    /// Whether it waits or runs.
    pub fn is_active(&self) -> bool {
        !ENDED.contains(&self.state.as_str())
    }
}

/// Returns the user's jobs, those that ended a short time ago among them.
///
/// # Errors
/// If Slurm does not answer; a sentence.
pub fn list() -> Result<Vec<Listed>, String> {
    let mut squeue = Command::new("squeue");
    squeue.args(["--noheader", "--me", "--states=all", "--format=%F|%T|%k"]);
    Ok(read(&said(&mut squeue)?))
}

fn read(text: &str) -> Vec<Listed> {
    let line = |line: &str| {
        let mut fields = line.trim().splitn(3, '|');
        let (id, state, comment) = (fields.next()?.parse().ok()?, fields.next()?, fields.next()?);
        Some(Listed { id, state: state.to_owned(), comment: comment.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// Returns the state in which a job has ended, of which squeue knows nothing any more, if the site keeps accounts.
pub fn remembered(id: u64) -> Option<String> {
    let mut sacct = Command::new("sacct");
    sacct.args(["--noheader", "--allocations", "--parsable2", "--format=State", &format!("--jobs={id}")]);
    let text = said(&mut sacct).ok()?;
    // `CANCELLED by 1000` has more than one word.
    let states: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    states.iter().find(|state| **state != "COMPLETED").or(states.first()).map(|state| (*state).to_owned())
}

/// Submits a script that waits for other jobs to end well; returns its number.
///
/// # Errors
/// If Slurm refuses it; what it said.
pub fn submit(script: &Path, after: &[u64]) -> Result<u64, String> {
    let mut sbatch = Command::new("sbatch");
    sbatch.args(arguments(after)).arg(script);
    let text = said(&mut sbatch)?;
    // `12` or `12;cluster`.
    let number = text.trim().split(';').next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("sbatch answered `{}`", text.trim()))
}

/// Returns the arguments of sbatch before the script.
pub fn arguments(after: &[u64]) -> Vec<String> {
    let mut arguments = vec!["--parsable".to_owned()];
    if !after.is_empty() {
        let after: Vec<String> = after.iter().map(u64::to_string).collect();
        arguments.push(format!("--dependency=afterok:{}", after.join(":")));
    }
    arguments
}

/// Cancels jobs.
///
/// # Errors
/// What Slurm said.
pub fn cancel(ids: &[u64]) -> Result<(), String> {
    if ids.is_empty() {
        return Ok(());
    }
    said(Command::new("scancel").args(ids.iter().map(u64::to_string))).map(drop)
}

/// Puts a running job back into the queue; it is ended and starts anew later.
///
/// # Errors
/// What Slurm said.
pub fn requeue(id: &str) -> Result<(), String> {
    said(Command::new("scontrol").args(["requeue", id])).map(drop)
}

/// Runs a program to its end and returns what it wrote to stdout.
fn said(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("`{name}` cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(format!("`{name}` failed: {}", lines.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_squeue_are_read() {
        let jobs = read("12|RUNNING|orandflow a 1 2 r\n13|COMPLETED|(null)\nslurm_load_jobs error\n");
        assert_eq!(jobs.len(), 2);
        assert_eq!((jobs[0].id, jobs[0].comment.as_str(), jobs[0].is_active()), (12, "orandflow a 1 2 r", true));
        assert!(!jobs[1].is_active());
        assert_eq!(arguments(&[3, 4])[1], "--dependency=afterok:3:4");
    }
}
