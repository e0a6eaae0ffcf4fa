//! The terminal in use by the live screen: taken, drawn on, and given back on every way out of the process.

use std::io::{self, IsTerminal, Write, stdin, stdout};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, TryLockError, mpsc};
use std::time::Duration;

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{execute, queue};
use ratatui::prelude::CrosstermBackend;
use ratatui::{DefaultTerminal, Terminal};

/// Whether the terminal is raw and on its alternate screen. Held while it changes hands and while it is drawn on, so that
/// nothing is drawn on a terminal that another thread has given back.
static IS_TAKEN: Mutex<bool> = Mutex::new(false);

/// How long giving it back may take when the process is to end at once: a write to a terminal takes microseconds.
const RESTORE_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether standard input and output are a terminal that a screen can be drawn on: one that has a cursor, and whose
/// foreground is ours (for a process in the background, changing its mode means to be stopped).
#[must_use]
pub fn can_be_taken() -> bool {
    let has_cursor = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    has_cursor && stdout().is_terminal() && stdin().is_terminal() && is_in_foreground()
}

fn is_in_foreground() -> bool {
    rustix::termios::tcgetpgrp(stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Whether colours are wanted (<https://no-color.org>).
#[must_use]
pub fn has_colors() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Makes the terminal raw and shows its alternate screen.
pub fn take() -> io::Result<DefaultTerminal> {
    give_back_on_panic();
    let mut is_taken = lock();
    // In this order: what fails halfway is given back, too.
    *is_taken = true;
    let taken = enable_raw_mode()
        .and_then(|()| execute!(stdout(), EnterAlternateScreen))
        .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
    if taken.is_err() {
        restore(&mut is_taken);
    }
    taken
}

/// Draws, unless the terminal has been given back meanwhile.
pub fn draw(draw: impl FnOnce()) {
    let is_taken = lock();
    if *is_taken {
        draw();
    }
}

/// Shows the main screen as it was, with its cursor, and ends raw mode. Once is enough.
pub fn give_back() {
    restore(&mut lock());
}

/// Gives the terminal back and ends the process, while nothing more is drawn.
///
/// A terminal whose output is stopped (Ctrl-S) may hold up the thread that draws, and would hold up this one: it is given
/// a moment, and then left.
pub fn give_back_and_exit(code: i32) -> ! {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let mut is_taken = lock();
        restore(&mut is_taken);
        let _ = done.send(());
        loop {
            std::thread::park();
        }
    });
    let _ = is_done.recv_timeout(RESTORE_TIMEOUT);
    std::process::exit(code)
}

fn restore(is_taken: &mut bool) {
    if std::mem::take(is_taken) {
        // A terminal that is gone takes nothing, and needs nothing.
        let _ = disable_raw_mode();
        let mut out = stdout();
        let _ = queue!(out, LeaveAlternateScreen, Show);
        let _ = out.flush();
    }
}

fn lock() -> MutexGuard<'static, bool> {
    IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A panic's message belongs on the main screen. The panicking thread may be the one that draws and holds the lock.
fn give_back_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            match IS_TAKEN.try_lock() {
                Ok(mut is_taken) => restore(&mut is_taken),
                Err(TryLockError::Poisoned(is_taken)) => restore(&mut is_taken.into_inner()),
                Err(TryLockError::WouldBlock) => restore(&mut true),
            }
            report(panic);
        }));
    });
}
