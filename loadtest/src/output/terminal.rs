//! The terminal used by the live screen: taken, drawn on, and restored on every way out of the process.

use std::io::{self, IsTerminal, Write, stdin, stdout};
use std::mem::ManuallyDrop;
use std::sync::{Mutex, MutexGuard, Once, PoisonError, TryLockError, mpsc};
use std::time::Duration;

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{execute, queue};
use ratatui::prelude::CrosstermBackend;
use ratatui::{DefaultTerminal, Frame, Terminal};

/// What this process does with the terminal. Held while it changes hands and while it is drawn on, so that nothing is drawn on a terminal that
/// another thread has given back.
static HOLD: Mutex<Hold> = Mutex::new(Hold::Free);

/// Whether this process has the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// It has not been taken, or has been given back for good.
    Free,
    /// It is raw, and on its alternate screen.
    Taken,
    /// It was taken when the process was stopped without a warning: a shell may have changed it. It is to be taken again
    /// when the process is in the foreground.
    Doubtful,
    /// It has been given back for a stop, and is to be taken again when the process is in the foreground.
    Stopped,
}

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
///
/// It is never dropped: [`give_back`] shows the cursor again, and the library's own attempt at that panics when the terminal
/// and standard error have hung up.
pub fn take() -> io::Result<ManuallyDrop<DefaultTerminal>> {
    give_back_on_panic();
    let mut hold = lock();
    let taken = hold.take().and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
    if taken.is_err() {
        hold.give_back();
    }
    taken.map(ManuallyDrop::new)
}

/// Whether keys are to be read and a picture is to be drawn: the terminal is taken, and not given back meanwhile.
#[must_use]
pub fn is_taken() -> bool {
    *lock() == Hold::Taken
}

/// Draws, unless the terminal has been given back meanwhile. When it has been taken again after a stop the whole picture is
/// drawn, as nothing of the last one is there any more.
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
        // This forgets the last picture. (`clear` would ask the terminal for its cursor's place.)
        terminal.swap_buffers();
        terminal.swap_buffers();
    }
    terminal.draw(draw).map(drop)
}

/// Stops the process as SIGTSTP does by default, while the shell has the terminal as it was.
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

/// The process goes on after a stop.
pub fn continued() {
    let mut hold = lock();
    if *hold == Hold::Taken {
        *hold = Hold::Doubtful;
    }
}

/// Raises SIGTSTP with its default action, which a process group without a shell above it ignores.
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

/// Shows the main screen as it was, with its cursor, and ends raw mode. Once is enough.
pub fn give_back() {
    lock().give_back();
}

/// Gives the terminal back and ends the process, while nothing more is drawn.
///
/// A terminal whose output is stopped (Ctrl-S) may hold up the thread that draws, and would hold up this one: it is given
/// a moment, and then left.
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
        // In this order: what fails halfway is given back, too.
        *self = Self::Taken;
        // The library remembers that the mode is raw, whatever a shell has made of it meanwhile.
        disable_raw_mode()?;
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)
    }

    fn give_back(&mut self) {
        if matches!(std::mem::replace(self, Self::Free), Self::Taken | Self::Doubtful) {
            // A terminal that is gone takes nothing, and needs nothing.
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

/// A panic's message belongs on the main screen. The panicking thread may be the one that draws and holds the lock.
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
