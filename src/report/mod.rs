//! Everything that a person or a program reads of a run. Decides nothing.

pub mod bars;
pub mod diff;
pub mod draw;
pub mod html;
pub mod http;
pub mod jsonl;
pub mod live;
pub mod log;
pub mod pace;
pub mod plain;
pub mod results;
pub mod tensorboard;
pub mod text;

use std::sync::{Mutex, PoisonError};

use crate::run::event::Stamped;

/// Somebody who hears of everything that happens in a run, one event at a time.
pub trait Listener: Send {
    /// Takes one event.
    fn hear(&mut self, event: &Stamped);
}

/// Passes every event on to all listeners.
#[derive(Default)]
pub struct Reporter {
    listeners: Mutex<Vec<Box<dyn Listener>>>,
}

impl Reporter {
    /// Makes a reporter.
    pub fn new(listeners: Vec<Box<dyn Listener>>) -> Self {
        Self { listeners: Mutex::new(listeners) }
    }

    /// Passes an event on.
    pub fn hear(&self, event: &Stamped) {
        for listener in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            listener.hear(event);
        }
    }
}
