//! Events as developers' logs, by way of tracing.

use super::Listener;
use crate::run::event::{Event, Stamped};

/// Passes events on to tracing, under the target `orandflow::run`.
pub struct Log;

impl Listener for Log {
    fn hear(&mut self, stamped: &Stamped) {
        let event = serde_json::to_string(&stamped.event).unwrap_or_default();
        match &stamped.event {
            Event::Failed { .. } => tracing::error!(target: "orandflow::run", at = stamped.at, "{event}"),
            Event::Warning { .. } => tracing::warn!(target: "orandflow::run", at = stamped.at, "{event}"),
            Event::Progress { .. } | Event::Metric { .. } | Event::ActionDone { .. } => {
                tracing::debug!(target: "orandflow::run", at = stamped.at, "{event}");
            }
            _ => tracing::info!(target: "orandflow::run", at = stamped.at, "{event}"),
        }
    }
}
