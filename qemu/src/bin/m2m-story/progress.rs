use std::{
    io::Write,
    time::{Duration, Instant},
};

/// Prints each step as it is taken: its number, the time since the start, what happens, and what came of it.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    steps: usize,
    taken: usize,
}

impl Progress {
    pub(crate) fn start(steps: usize) -> Self {
        Self { start: Instant::now(), steps, taken: 0 }
    }

    /// Says what is going to happen; [`Step::done`] or [`Step::failed`] says what did.
    pub(crate) fn step(&mut self, what: &str) -> Step {
        self.taken += 1;
        let elapsed = self.start.elapsed().as_secs_f64();
        print!("{elapsed:7.1} s  {:2}/{}  {what} ... ", self.taken, self.steps);
        let _ = std::io::stdout().flush();
        Step { start: Instant::now() }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A step that is being taken.
#[derive(Debug)]
pub(crate) struct Step {
    start: Instant,
}

impl Step {
    pub(crate) fn done(self, detail: &str) {
        let detail = if detail.is_empty() { "ok" } else { detail };
        println!("{detail} ({:.1} s)", self.start.elapsed().as_secs_f64());
    }

    pub(crate) fn failed(self) {
        println!("FAILED ({:.1} s)", self.start.elapsed().as_secs_f64());
    }
}
