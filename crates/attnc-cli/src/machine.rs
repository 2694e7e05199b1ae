//! What is measured against: this machine, its peak, and the memory of this process.

use std::time::{Duration, Instant};

use attnc::{Isa, Threads};
use serde::Serialize;

/// The machine of a measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Model of the CPU, as the system names it.
    pub(crate) cpu: String,
    /// Logical cores.
    pub(crate) cores: usize,
    /// Best instruction set that kernels exist for.
    pub(crate) isa: &'static str,
    /// Operating system and architecture.
    pub(crate) os: String,
    /// Version of this program.
    pub(crate) version: &'static str,
}

impl Machine {
    /// This machine.
    pub(crate) fn here() -> Machine {
        Machine {
            cpu: cpu_model().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: cores(),
            isa: Isa::best().name(),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Logical cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn cpu_model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Most memory that this process has held; `None` where the system does not say.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Lets [`peak_rss_bytes`] begin anew, where the system can.
pub(crate) fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Independent multiply-adds on the widest vectors of an instruction set, on all threads at once.
pub(crate) struct Bursts<'a> {
    threads: &'a Threads,
    isa: Isa,
    /// Rounds of 100 ms.
    iterations: u64,
}

impl<'a> Bursts<'a> {
    const LONG: Duration = Duration::from_millis(100);

    pub(crate) fn new(threads: &'a Threads, isa: Isa) -> Bursts<'a> {
        // Rounds that take about as long shall.
        let mut bursts = Bursts { threads, isa, iterations: 1 << 16 };
        loop {
            let (_, time) = bursts.run(bursts.iterations);
            if time >= Self::LONG / 4 {
                let long = Self::LONG.as_secs_f64() / time.as_secs_f64();
                bursts.iterations = (bursts.iterations as f64 * long).ceil() as u64;
                return bursts;
            }
            bursts.iterations *= 2;
        }
    }

    fn run(&self, iterations: u64) -> (f64, Duration) {
        let begin = Instant::now();
        let one = || std::hint::black_box(attnc::measure::fma_burst(self.isa, iterations)).0;
        let flops: u64 = self.threads.broadcast(one).iter().sum();
        (flops as f64, begin.elapsed())
    }

    /// What the machine does at most, in GFLOP/s: the best of five bursts of 100 ms.
    pub(crate) fn peak(&self) -> f64 {
        (0..5).map(|_| self.gflops(1)).fold(0.0, f64::max)
    }

    /// What it does now: one burst of a `part` of 100 ms.
    pub(crate) fn gflops(&self, part: u64) -> f64 {
        let (flops, time) = self.run((self.iterations / part).max(1));
        flops / time.as_secs_f64().max(1e-9) / 1e9
    }
}

/// Bytes that stay in a cache from one launch to the next: those of the third-level one where the system names it, at
/// most 64 MiB, since machines share it with others and say nothing of that.
pub(crate) fn cache_bytes() -> u64 {
    const MOST: u64 = 64 << 20;
    const UNKNOWN: u64 = 32 << 20;
    let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").ok();
    let kilobytes = size.and_then(|s| s.trim().strip_suffix('K')?.parse::<u64>().ok());
    kilobytes.map_or(UNKNOWN, |k| k.saturating_mul(1024)).min(MOST)
}

/// Bytes of which reading is measured: more than caches hold.
const READ_BYTES: usize = 512 << 20;

/// What as many threads read of memory, in GB/s: the best of five rounds over 512 MiB.
pub(crate) fn read_gbps(threads: &Threads) -> f64 {
    attnc::measure::read_bandwidth(threads.count(), READ_BYTES) / 1e9
}

/// Order statistics of nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Samples(Vec<u64>);

impl Samples {
    /// Sorts; there is at least one.
    pub(crate) fn new(mut samples: Vec<u64>) -> Samples {
        samples.sort_unstable();
        Samples(samples)
    }

    /// The sample below which a share of the others lies.
    pub(crate) fn at(&self, share: f64) -> u64 {
        let last = self.0.len().saturating_sub(1);
        let place = (share * last as f64).round() as usize;
        self.0.get(place.min(last)).copied().unwrap_or(0)
    }

    /// The middle one, or the mean of the two middle ones.
    pub(crate) fn median(&self) -> u64 {
        let n = self.0.len();
        if n == 0 { 0 } else { (self.0[(n - 1) / 2] + self.0[n / 2]) / 2 }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// The middle one of some rates; `None` of none.
pub(crate) fn median(mut rates: Vec<f64>) -> Option<f64> {
    rates.sort_unstable_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}

/// Nanoseconds since a moment.
pub(crate) fn nanos(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// `1.23 ms`
pub(crate) fn time(nanos: u64) -> String {
    match nanos as f64 {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.1} us", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_statistics() {
        let samples = Samples::new(vec![5, 1, 4, 2]);
        assert_eq!((samples.median(), samples.at(0.05), samples.at(0.95), samples.count()), (3, 1, 5, 4));
        assert_eq!(Samples::new(vec![7]).median(), 7);
    }

    #[test]
    fn times_are_short() {
        assert_eq!(
            (time(999), time(1_500), time(2_345_678), time(12_000_000_000)),
            ("999 ns".into(), "1.5 us".into(), "2.35 ms".into(), "12.00 s".into())
        );
    }
}
