//! The terminal of the live screen: taken over, drawn on, and restored on every exit of the process.

use std::io::{self, IsTerminal, Write, stdin, stdout};
use std::mem::ManuallyDrop;
use std::sync::{Mutex, MutexGuard, Once, PoisonError, TryLockError, mpsc};
use std::time::Duration;

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{execute, queue};
use ratatui::prelude::CrosstermBackend;
use ratatui::{DefaultTerminal, Frame, Terminal};

/// The state of the terminal. The lock is held while the state changes and while a frame is drawn, so that a thread
/// never draws on a terminal that another thread has restored.
static HOLD: Mutex<Hold> = Mutex::new(Hold::Free);

/// Whether this process has taken over the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// Not taken over, or restored for good.
    Free,
    /// In raw mode, on the alternate screen.
    Taken,
    /// Taken over, but the process was stopped without warning: a shell may have changed the terminal. It is taken over
    /// again once the process is in the foreground.
    Doubtful,
    /// Restored for a stop; it is taken over again once the process is in the foreground.
    Stopped,
}

/// Limit of time for restoring the terminal when the process must end at once: a write to a terminal takes
/// microseconds.
const RESTORE_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether standard input and output are a terminal that can show a screen: it has a cursor, and this process is in its
/// foreground (a background process that changes the mode is stopped).
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
///
/// The value is never dropped: [`give_back`] shows the cursor again, and the library's own attempt panics if the
/// terminal and standard error have hung up.
pub fn take() -> io::Result<ManuallyDrop<DefaultTerminal>> {
    give_back_on_panic();
    let mut hold = lock();
    let taken = hold.take().and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
    if taken.is_err() {
        hold.give_back();
    }
    taken.map(ManuallyDrop::new)
}

/// Whether to read keys and draw frames: the terminal is taken over at present.
#[must_use]
pub fn is_taken() -> bool {
    *lock() == Hold::Taken
}

/// Draws a frame if the terminal is taken over at present. After a stop the whole frame is drawn again, since the
/// screen's content is lost.
pub fn draw(terminal: &mut DefaultTerminal, draw: impl FnOnce(&mut Frame)) -> io::Result<()> {
    let mut hold = lock();
    let is_anew = matches!(*hold, Hold::Doubtful | Hold::Stopped) && is_in_foreground();
    if is_anew && let Err(error) = hold.take() {
        hold.give_back();
        return Err(error);
    }
    if *hold != Hold::Taken {
        return Ok(());
    }
    if is_anew {
        // Discards the last frame. (`clear` would query the terminal for the cursor's position.)
        terminal.swap_buffers();
        terminal.swap_buffers();
    }
    terminal.draw(draw).map(drop)
}

/// Stops the process as SIGTSTP does by default, with the terminal restored for the shell.
pub fn stop() {
    {
        let mut hold = lock();
        if *hold != Hold::Free {
            hold.give_back();
            *hold = Hold::Stopped;
        }
    }
    stop_by_default();
}

/// Continues after a stop.
pub fn continued() {
    let mut hold = lock();
    if *hold == Hold::Taken {
        *hold = Hold::Doubtful;
    }
}

/// Raises SIGTSTP with its default action; an orphaned process group ignores it.
fn stop_by_default() {
    // SAFETY: all-zero bytes are a valid `sigaction`: no flags, no mask, and `SIG_DFL`, which is 0.
    let (mut default, mut own): (libc::sigaction, libc::sigaction) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    default.sa_sigaction = libc::SIG_DFL;
    // SAFETY: both structures live through the calls, and `own` is the handler that was in place. `raise` stops this thread,
    // and with it the process, before it returns.
    unsafe {
        if libc::sigaction(libc::SIGTSTP, &raw const default, &raw mut own) == 0 {
            libc::raise(libc::SIGTSTP);
            libc::sigaction(libc::SIGTSTP, &raw const own, std::ptr::null_mut());
        }
    }
}

/// Shows the main screen with its cursor, and leaves raw mode. Further calls do nothing.
pub fn give_back() {
    lock().give_back();
}

/// Restores the terminal and ends the process; no frame is drawn any more.
///
/// If the terminal's output is stopped (Ctrl-S), the drawing thread may block with the lock held. This waits a moment
/// for it and then ends the process anyway.
pub fn give_back_and_exit(code: i32) -> ! {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let mut hold = lock();
        hold.give_back();
        let _ = done.send(());
        loop {
            std::thread::park();
        }
    });
    let _ = is_done.recv_timeout(RESTORE_TIMEOUT);
    std::process::exit(code)
}

impl Hold {
    fn take(&mut self) -> io::Result<()> {
        // In this order, so that a partial failure is restored as well.
        *self = Self::Taken;
        // The library assumes that raw mode is still on, even if a shell has changed it meanwhile.
        disable_raw_mode()?;
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)
    }

    fn give_back(&mut self) {
        if matches!(std::mem::replace(self, Self::Free), Self::Taken | Self::Doubtful) {
            // A terminal that has hung up needs no restoring.
            let _ = disable_raw_mode();
            let mut out = stdout();
            let _ = queue!(out, LeaveAlternateScreen, Show);
            let _ = out.flush();
        }
    }
}

fn lock() -> MutexGuard<'static, Hold> {
    HOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A panic's message belongs on the main screen. The panicking thread may hold the lock for drawing.
fn give_back_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            match HOLD.try_lock() {
                Ok(mut hold) => hold.give_back(),
                Err(TryLockError::Poisoned(hold)) => hold.into_inner().give_back(),
                Err(TryLockError::WouldBlock) => Hold::Taken.give_back(),
            }
            report(panic);
        }));
    });
}
