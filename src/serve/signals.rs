//! What asks this process to end, besides its client.

use std::io;

use tokio::sync::oneshot;

/// Rings at the first signal that ends us. Waited for on a task of its own: the loop then asks one
/// cheap question a turn instead of several.
#[cfg(unix)]
pub(super) fn signals() -> io::Result<oneshot::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(ring(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }))
}

/// Rings when the console, the session or the system ends us. Most clients end us by closing our
/// standard input, or without a word.
#[cfg(windows)]
pub(super) fn signals() -> io::Result<oneshot::Receiver<()>> {
    use tokio::signal::windows;
    let mut interrupt = windows::ctrl_c()?;
    let mut stop = windows::ctrl_break()?;
    let mut close = windows::ctrl_close()?;
    let mut logoff = windows::ctrl_logoff()?;
    let mut shutdown = windows::ctrl_shutdown()?;
    Ok(ring(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = stop.recv() => {}
            _ = close.recv() => {}
            _ = logoff.recv() => {}
            _ = shutdown.recv() => {}
        }
    }))
}

fn ring(signal: impl Future<Output = ()> + Send + 'static) -> oneshot::Receiver<()> {
    let (ring, rung) = oneshot::channel();
    tokio::spawn(async move {
        signal.await;
        // nobody listens once the end has begun
        ring.send(()).unwrap_or_default();
    });
    rung
}
