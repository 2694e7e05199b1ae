//! Adapters, what each can run, and devices.
//!
//! The one idea: a [`Gpu`] is a device and a queue, opened here or handed over by a host, with what its adapter offers
//! turned into the variants that it runs. Errors of wgpu are caught in scopes and become values; nothing here blocks,
//! keeps a thread or reads a clock. Futures of wgpu are ready at once on every native backend; where one is not, that
//! is an error. Nothing here knows of attention.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use wgpu::{Backends, Features, Limits};

use crate::emit::Variant;

/// Why something did not run on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuError {
    /// No adapter is meant by the name, or none is there.
    NoAdapter(String),
    /// The device could not be opened.
    Device(String),
    /// The driver refused a shader.
    Shader(String),
    /// The GPU has no memory for it.
    OutOfMemory(String),
    /// The device is gone.
    Lost(String),
    /// What is asked for exceeds what the adapter allows.
    Limit(String),
    /// Anything else that wgpu refuses: a mistake of this crate.
    Internal(String),
}

impl fmt::Display for GpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuError::NoAdapter(what) => f.write_str(what),
            GpuError::Device(what) => write!(f, "the GPU cannot be opened: {what}"),
            GpuError::Shader(what) => write!(f, "the GPU's driver refuses the shader: {what}"),
            GpuError::OutOfMemory(what) => write!(f, "the GPU has no memory for {what}"),
            GpuError::Lost(what) => write!(f, "the GPU was lost: {what}"),
            GpuError::Limit(what) => write!(f, "the GPU does not allow {what}"),
            GpuError::Internal(what) => write!(f, "the GPU refused a command: {what}"),
        }
    }
}

impl std::error::Error for GpuError {}

impl GpuError {
    /// What can be done about it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            GpuError::NoAdapter(_) => {
                "`attnc targets` lists adapters and why one cannot serve; `--target cpu` runs everywhere"
            }
            GpuError::Device(_) => {
                "another program may hold the GPU, or its driver may be broken; `--target cpu` runs everywhere"
            }
            GpuError::Shader(_) => {
                "another variant may do, such as `--target gpu:portable`; please report it with the pattern"
            }
            GpuError::OutOfMemory(_) => "use fewer tokens, heads or batch items at a time, or close other programs",
            GpuError::Lost(_) => {
                "the driver reset the GPU or it was removed: open it anew; a shorter launch may stay below its time limit"
            }
            GpuError::Limit(_) => "use fewer tokens, heads or batch items at a time",
            GpuError::Internal(_) => "please report it with the pattern and the sizes",
        }
    }
}

/// The value of a future that is ready.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// A GPU that wgpu knows of.
#[derive(Debug)]
pub struct Adapter {
    adapter: wgpu::Adapter,
    info: wgpu::AdapterInfo,
}

/// Backends by the names that targets use.
const BACKENDS: [(&str, Backends); 3] =
    [("vulkan", Backends::VULKAN), ("metal", Backends::METAL), ("dx12", Backends::DX12)];

/// The adapters of this machine, the most capable first; of one backend, if it is named.
///
/// # Errors
/// A backend that there is not.
pub fn adapters(backend: Option<&str>) -> Result<Vec<Adapter>, GpuError> {
    let backends = match backend {
        None => BACKENDS.iter().fold(Backends::empty(), |all, (_, b)| all | *b),
        Some(name) => {
            let known = BACKENDS.iter().find(|(known, _)| *known == name);
            let list: Vec<&str> = BACKENDS.iter().map(|(name, _)| *name).collect();
            known.ok_or_else(|| GpuError::NoAdapter(format!("there is no backend `{name}`: {}", list.join(", "))))?.1
        }
    };
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = backends;
    let instance = wgpu::Instance::new(desc);
    let found = ready(instance.enumerate_adapters(backends)).unwrap_or_default();
    let mut found: Vec<Adapter> = found
        .into_iter()
        .map(|adapter| {
            let info = adapter.get_info();
            Adapter { adapter, info }
        })
        .collect();
    let rank = |a: &Adapter| match a.info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    found.sort_by_key(|a| (rank(a), a.refusal().is_some()));
    Ok(found)
}

/// The first adapter that serves, of one backend and with a name that contains `name`, if they are given.
///
/// # Errors
/// If there is none.
pub fn adapter(backend: Option<&str>, name: Option<&str>) -> Result<Adapter, GpuError> {
    let all = adapters(backend)?;
    let lower = name.map(str::to_lowercase);
    let meant = |a: &Adapter| lower.as_ref().is_none_or(|name| a.info.name.to_lowercase().contains(name));
    let mut refused = None;
    let names: Vec<String> = all.iter().map(|a| a.info.name.clone()).collect();
    for adapter in all.into_iter().filter(meant) {
        match adapter.refusal() {
            None => return Ok(adapter),
            Some(why) => refused = Some(format!("{}: {why}", adapter.info.name)),
        }
    }
    Err(GpuError::NoAdapter(match (refused, name) {
        (Some(why), _) => format!("no GPU adapter can serve; {why}"),
        (None, Some(name)) if !names.is_empty() => {
            format!("no GPU adapter is named `{name}`; there are: {}", names.join(", "))
        }
        _ => "this machine has no GPU adapter that wgpu finds".to_owned(),
    }))
}

impl Adapter {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Its backend, as targets name it.
    #[must_use]
    pub fn backend(&self) -> String {
        self.info.backend.to_string()
    }

    /// Driver and version.
    #[must_use]
    pub fn driver(&self) -> String {
        format!("{} {}", self.info.driver, self.info.driver_info).trim().to_owned()
    }

    /// Whether it is a processor that plays a GPU.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Why it runs nothing, if so.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let limits = self.adapter.limits();
        let least = [
            ("bytes of workgroup memory", u64::from(limits.max_compute_workgroup_storage_size), 16384),
            ("threads in a workgroup", u64::from(limits.max_compute_invocations_per_workgroup), 64),
            ("storage buffers of a stage", u64::from(limits.max_storage_buffers_per_shader_stage), 8),
        ];
        least
            .iter()
            .find(|(_, has, needs)| has < needs)
            .map(|(what, has, needs)| format!("it has {has} {what}, and {needs} are needed"))
    }

    /// Why it does not run a variant, if so.
    #[must_use]
    pub fn lacks(&self, variant: Variant) -> Option<String> {
        if let Some(why) = self.refusal() {
            return Some(why);
        }
        let features = self.adapter.features();
        let half = || {
            if !features.contains(Features::SHADER_F16) {
                return Some("it has no f16 in shaders".to_owned());
            }
            (!features.contains(Features::SUBGROUP)).then(|| "it has no subgroups".to_owned())
        };
        match variant {
            Variant::Portable => None,
            Variant::Half => half(),
            Variant::Matrix => half().or_else(|| {
                if !features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
                    return Some("it has no cooperative matrices".to_owned());
                }
                let fits = |p: &wgpu::CooperativeMatrixProperties| {
                    (p.m_size, p.n_size, p.k_size) == (16, 16, 16)
                        && p.ab_type == wgpu::CooperativeScalarType::F16
                        && p.cr_type == wgpu::CooperativeScalarType::F32
                };
                if !self.adapter.cooperative_matrix_properties().iter().any(fits) {
                    return Some("its cooperative matrices are not 16 x 16 x 16 of f16 into f32".to_owned());
                }
                let (least, most) = (self.info.subgroup_min_size, self.info.subgroup_max_size);
                if (least, most) != (32, 32) {
                    return Some(format!("its subgroups have {least} to {most} threads, not 32"));
                }
                if !features.contains(Features::SUBGROUP_BARRIER) {
                    return Some("it has no barriers of subgroups".to_owned());
                }
                (self.adapter.limits().max_compute_workgroup_storage_size < 48 * 1024)
                    .then(|| "it has less than 48 KiB of workgroup memory".to_owned())
            }),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// If it is lost, held by another, or runs nothing.
    pub fn open(&self) -> Result<Gpu, GpuError> {
        if let Some(why) = self.refusal() {
            return Err(GpuError::NoAdapter(format!("{}: {why}", self.info.name)));
        }
        let variants: Vec<Variant> = Variant::ALL.into_iter().filter(|v| self.lacks(*v).is_none()).collect();
        let mut features = Features::empty();
        if variants.contains(&Variant::Half) {
            features |= Features::SHADER_F16 | Features::SUBGROUP;
        }
        let matrix = variants.contains(&Variant::Matrix);
        if matrix {
            features |= Features::EXPERIMENTAL_COOPERATIVE_MATRIX | Features::SUBGROUP_BARRIER;
        }
        features |= self.adapter.features() & Features::TIMESTAMP_QUERY;
        let desc = wgpu::DeviceDescriptor {
            label: Some("attnc"),
            required_features: features,
            required_limits: self.adapter.limits(),
            experimental_features: crate::experimental::features(matrix),
            ..wgpu::DeviceDescriptor::default()
        };
        match ready(self.adapter.request_device(&desc)) {
            Some(Ok((device, queue))) => Ok(Gpu::new(device, queue, variants)),
            Some(Err(error)) => Err(GpuError::Device(error.to_string())),
            None => Err(GpuError::Device("it is not ready at once".to_owned())),
        }
    }
}

/// A device and its queue.
#[derive(Debug)]
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    variants: Vec<Variant>,
    pub(crate) limits: Limits,
    /// Nanoseconds of a tick of timestamps, where the device has them.
    pub(crate) tick: Option<f32>,
    /// Why the device is lost, if it is.
    lost: Arc<OnceLock<String>>,
    /// Tells this device from others.
    pub(crate) token: Arc<()>,
}

impl Gpu {
    /// A device of the host, which runs these variants; see [`Adapter::lacks`] for what each asks.
    #[must_use]
    pub fn new(device: wgpu::Device, queue: wgpu::Queue, variants: Vec<Variant>) -> Gpu {
        let lost: Arc<OnceLock<String>> = Arc::default();
        let cell = lost.clone();
        device.set_device_lost_callback(move |reason, message| {
            // The first reason stays.
            let _ = cell.set(format!("{reason:?}: {message}"));
        });
        let limits = device.limits();
        let tick = device.features().contains(Features::TIMESTAMP_QUERY).then(|| queue.get_timestamp_period());
        Gpu { device, queue, variants, limits, tick, lost, token: Arc::new(()) }
    }

    /// The variants that it runs.
    #[must_use]
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Its queue.
    #[must_use]
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Whether it tells how long kernels take.
    #[must_use]
    pub fn has_timestamps(&self) -> bool {
        self.tick.is_some()
    }

    /// An error if the device is lost.
    pub(crate) fn check(&self) -> Result<(), GpuError> {
        self.lost.get().map_or(Ok(()), |why| Err(GpuError::Lost(why.clone())))
    }

    /// Runs commands of wgpu and turns what it says into an error.
    pub(crate) fn scoped<T>(
        &self,
        wrong: impl Fn(String) -> GpuError,
        memory: &str,
        work: impl FnOnce() -> T,
    ) -> Result<T, GpuError> {
        self.check()?;
        let scopes = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory]
            .map(|filter| self.device.push_error_scope(filter));
        let made = work();
        let mut said = None;
        // Scopes are a stack.
        for scope in scopes.into_iter().rev() {
            if let Some(Some(error)) = ready(scope.pop()) {
                said.get_or_insert(error);
            }
        }
        self.check()?;
        match said {
            None => Ok(made),
            Some(wgpu::Error::OutOfMemory { .. }) => Err(GpuError::OutOfMemory(memory.to_owned())),
            Some(error) => Err(wrong(error.to_string())),
        }
    }
}
