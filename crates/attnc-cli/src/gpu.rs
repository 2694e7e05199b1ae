//! GPUs for the command line: opening one, and waiting for it.
//!
//! One idea: the library never waits, so that this is the one place that does. Without the feature `gpu` nothing here
//! is compiled, and no target names a GPU.

use std::time::Duration;

use attnc::gpu::{self, Gpu, Pending, Session};
use attnc::{Chosen, Diagnostics, Kernel, Problem};

use crate::args::{GpuName, Target};
use crate::report::{Failure, Outcome};

/// Opens the GPU that a target names; `None` if it names none.
pub(crate) fn open(target: &Target) -> Outcome<Option<Gpu>> {
    let Target::Gpu(GpuName { variant, backend, adapter }) = target else { return Ok(None) };
    let of = |e: gpu::Error| Failure::from(Diagnostics::from(e));
    let adapter = gpu::adapter(backend.as_deref(), adapter.as_deref()).map_err(of)?;
    if let Some(why) = variant.and_then(|v| adapter.lacks(v)) {
        let name = variant.map_or("", |v| v.name());
        let message = format!("{} does not run the variant `{name}`: {why}", adapter.name());
        return Err(of(gpu::Error::NoAdapter(message)));
    }
    adapter.open().map(Some).map_err(of)
}

/// Waits until the results of a launch are there.
fn wait(pending: &Pending, gpu: &Gpu) -> Outcome {
    let mut pause = Duration::from_micros(20);
    while !pending.ready(gpu)? {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
    Ok(())
}

/// Runs a kernel on a GPU; the session tells what of it was used.
pub(crate) fn run(kernel: &Kernel, gpu: &Gpu, problem: &mut Problem<'_>) -> Outcome<Session> {
    let session = Session::new(kernel, gpu, problem)?;
    let pending = session.submit(gpu, true)?;
    wait(&pending, gpu)?;
    pending.finish(problem)?;
    Ok(session)
}

/// As [`run`], and hands back what the selections of all heads chose.
pub(crate) fn run_chosen(kernel: &Kernel, gpu: &Gpu, problem: &mut Problem<'_>) -> Outcome<(Session, Vec<Chosen>)> {
    let session = Session::new(kernel, gpu, problem)?;
    let pending = session.submit_chosen(gpu)?;
    wait(&pending, gpu)?;
    let (_, chosen) = pending.finish_chosen(problem)?;
    Ok((session, chosen))
}

/// Runs a session once more, leaving results on the GPU; nanoseconds on the device, if it tells.
pub(crate) fn again(session: &Session, gpu: &Gpu, problem: &mut Problem<'_>) -> Outcome<Option<f64>> {
    let pending = session.submit(gpu, false)?;
    wait(&pending, gpu)?;
    Ok(pending.finish(problem)?)
}

/// Lines of `attnc targets`: name, and whether it runs or why not.
pub(crate) fn targets() -> Vec<(String, Result<String, String>)> {
    let adapters = gpu::adapters(None).unwrap_or_default();
    if adapters.is_empty() {
        return vec![("gpu".to_owned(), Err("no adapter that wgpu finds".to_owned()))];
    }
    let mut lines = Vec::new();
    for adapter in &adapters {
        let kind = if adapter.is_software() { ", software" } else { "" };
        let about = format!("{}{kind}, {}", adapter.name(), adapter.driver());
        for variant in gpu::Variant::ALL {
            let name = format!("gpu:{}:{}", variant.name(), adapter.backend());
            lines.push((
                name,
                match adapter.lacks(variant) {
                    None => Ok(about.clone()),
                    Some(why) => Err(format!("{}: {why}", adapter.name())),
                },
            ));
        }
    }
    lines
}
