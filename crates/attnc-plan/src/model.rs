//! Predicted time: what a task does, counted in [`Term`]s, times what a machine takes for one of each.
//!
//! The one idea: time is linear in counts that are exact before running. A task takes
//!
//! ```text
//! sum over terms of  rate(term) * count(term) * (d_k + d_v) / 2  for terms of elements,
//!                    rate(term) * count(term)                    for the others
//! ```
//!
//! and a launch takes what its tasks take, dealt to threads in the order in which a target starts them ([`makespan`]),
//! and what it does on its own before. [`Rates::fit`] finds the rates from a few measured launches, as the
//! non-negative numbers that make the *relative* errors least.
//!
//! What the model does not know: caches (a rate is that of the launches it was fitted to; only where few queries
//! meet many keys it asks whether K and V stay in one), other programs, pages of memory that are touched for the first
//! time, and the run-time data beyond the sets. Nothing here knows of clocks,
//! files or machines.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::{Index, IndexMut};

macro_rules! terms {
    ($($(#[$doc:meta])* $name:ident $text:literal $elements:literal,)*) => {
        /// What time is spent on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Term {
            $($(#[$doc])* $name,)*
        }

        impl Term {
            /// All terms.
            pub const ALL: &[Term] = &[$(Term::$name),*];
            /// How many there are.
            pub const COUNT: usize = Term::ALL.len();

            /// Its name in files and tables.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Term::$name => $text,)* }
            }

            /// Whether one of it is work for each element of a row.
            #[must_use]
            pub fn of_elements(self) -> bool {
                match self { $(Term::$name => $elements,)* }
            }
        }
    };
}

terms! {
    /// Pairs of a key and a lane that are visited: the multiply-adds of both products.
    Products "products" true,
    /// The same pairs: the softmax.
    Softmax "softmax" false,
    /// Those of them in tiles that not every query attends to wholly: masks.
    Masked "masked" false,
    /// Keys of chunks: rows of K and V come from a cache and are converted if they are no singles.
    Keys "keys" true,
    /// Keys that are gathered one by one; of a numbering by orders, all.
    Gathered "gathered" true,
    /// Keys whose rows lie apart, as those of a residue class.
    Strided "strided" true,
    /// Keys of a tile of few queries, once for every four of them: both products, and rows of K and V.
    Few "few" true,
    /// The same keys once, as far as K and V do not stay in a cache from launch to launch ([`Calibration::reading`]).
    Streamed "streamed" true,
    /// Pairs of a query and a key of its own, where queries go one by one: both products, and the softmax.
    Own "own" true,
    /// Chunks: calls of the kernels.
    Chunks "chunks" false,
    /// Queries of tasks, elements of which are packed, and written at the end.
    Rows "rows" true,
    /// Tasks.
    Tasks "tasks" false,
    /// Tiles of keys whose rows of bits are made and looked through.
    Tiles "tiles" false,
    /// Rows of bits that hold something.
    Bits "bits" false,
    /// Operations of predicates that are tested key by key.
    Tested "tested" false,
    /// Vector operations of modifiers, by pair.
    Modified "modified" false,
    /// Functions of reals in modifiers, by pair.
    Functions "functions" false,
    /// Operations of modifiers that have no vector form, by pair: elements of tensors, divisions of integers.
    Lookups "lookups" false,
    /// Queries, and keys of a numbering by orders, put in an order of their own, once a launch.
    Ordered "ordered" false,
    /// Launches.
    Launches "launches" false,
}

/// How much of each term a task, or something larger, has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work([u64; Term::COUNT]);

impl Index<Term> for Work {
    type Output = u64;

    fn index(&self, term: Term) -> &u64 {
        &self.0[term as usize]
    }
}

impl IndexMut<Term> for Work {
    fn index_mut(&mut self, term: Term) -> &mut u64 {
        &mut self.0[term as usize]
    }
}

impl Work {
    /// One of a term.
    #[must_use]
    pub fn one(term: Term) -> Work {
        let mut work = Work::default();
        work[term] = 1;
        work
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; Term::COUNT]
    }

    /// Adds `times` times another. Counts stop at the largest number there is: a time is not exact.
    pub fn add(&mut self, other: &Work, times: u64) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a = b.saturating_mul(times).saturating_add(*a);
        }
    }

    /// The `i`-th of `n` parts of a task, which are tasks of their own: each has all of its rows.
    #[must_use]
    pub fn part(&self, i: u64, n: u64) -> Work {
        let mut part = Work::default();
        for (&term, count) in Term::ALL.iter().zip(self.0) {
            let upto = |i: u64| (u128::from(count) * u128::from(i) / u128::from(n.max(1))) as u64;
            part[term] = match term {
                Term::Rows | Term::Tasks => count,
                _ => upto(i + 1) - upto(i),
            };
        }
        part
    }

    /// Counts as the rates take them.
    fn amounts(&self, elements: f64) -> [f64; Term::COUNT] {
        let mut amounts = [0.0; Term::COUNT];
        for (&term, amount) in Term::ALL.iter().zip(&mut amounts) {
            *amount = self[term] as f64 * if term.of_elements() { elements } else { 1.0 };
        }
        amounts
    }
}

/// What a machine takes for one of each term, in nanoseconds of a thread while all threads are busy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates([f64; Term::COUNT]);

impl Index<Term> for Rates {
    type Output = f64;

    fn index(&self, term: Term) -> &f64 {
        &self.0[term as usize]
    }
}

impl IndexMut<Term> for Rates {
    fn index_mut(&mut self, term: Term) -> &mut f64 {
        &mut self.0[term as usize]
    }
}

/// A launch that was measured.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// All that it did.
    pub work: Work,
    /// Mean of the elements of a row of K and of V.
    pub elements: f64,
    /// What it took, in nanoseconds of a thread.
    pub nanos: f64,
}

impl Rates {
    /// Nanoseconds that a thread takes.
    #[must_use]
    pub fn nanos(&self, work: &Work, elements: f64) -> f64 {
        self.0.iter().zip(work.amounts(elements)).map(|(rate, amount)| rate * amount).sum()
    }

    /// Changes the rates of `free` terms so that the sum of squared relative errors over the samples is least, none
    /// being negative; the other rates stay. Samples that took no time say nothing.
    #[must_use]
    pub fn fit(mut self, free: &[Term], samples: &[Sample]) -> Rates {
        // One row of the system for each sample: amounts over time, which the rates shall bring to 1.
        let timed = samples.iter().filter(|s| s.nanos > 0.0);
        let rows: Vec<[f64; Term::COUNT]> =
            timed.map(|s| s.work.amounts(s.elements).map(|amount| amount / s.nanos)).collect();
        for &term in free {
            self[term] = 0.0;
        }
        let mut errors: Vec<f64> =
            rows.iter().map(|row| row.iter().zip(self.0).map(|(x, rate)| x * rate).sum::<f64>() - 1.0).collect();
        let squares: Vec<f64> = free.iter().map(|&t| rows.iter().map(|r| r[t as usize].powi(2)).sum()).collect();
        // One rate after the other to its best place, again and again: it converges, since the sum is convex.
        for _ in 0..SWEEPS {
            let mut moved = 0.0_f64;
            for (&term, &square) in free.iter().zip(&squares).filter(|(_, s)| **s > 0.0) {
                let slope: f64 = rows.iter().zip(&errors).map(|(row, e)| row[term as usize] * e).sum();
                let step = (-slope / square).max(-self[term]);
                self[term] += step;
                for (row, error) in rows.iter().zip(&mut errors) {
                    *error += step * row[term as usize];
                }
                moved = moved.max(step.abs() * square.sqrt());
            }
            if moved < 1e-9 {
                break;
            }
        }
        self
    }
}

/// What is known of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Of a thread while `threads` of them are busy.
    pub rates: Rates,
    /// Threads that the rates were measured with: as many as can run at once.
    pub threads: usize,
    /// What a thread takes that is alone, over what it takes among `threads`.
    pub alone: f64,
    /// Bytes that stay in a cache.
    pub cache: f64,
}

impl Calibration {
    /// What a thread takes where `threads` of them are busy, over what it takes among all.
    #[must_use]
    pub fn share(&self, threads: usize) -> f64 {
        if self.threads < 2 {
            return 1.0;
        }
        let others = (threads.clamp(1, self.threads) - 1) as f64 / (self.threads - 1) as f64;
        self.alone + (1.0 - self.alone) * others
    }

    /// What the tasks of a launch take together, at most, if it takes `nanos` on `threads` threads: nanoseconds by the
    /// rates alone.
    #[must_use]
    pub fn most(&self, nanos: f64, threads: usize) -> f64 {
        let threads = threads.clamp(1, self.threads.max(1));
        nanos * threads as f64 / self.share(1).min(self.share(threads)).max(f64::MIN_POSITIVE)
    }

    /// For launches of `bytes` bytes of K and V: what of them the caches do not hold is read from memory.
    #[must_use]
    pub fn reading(mut self, bytes: f64) -> Calibration {
        self.rates[Term::Streamed] *= uncached(bytes, self.cache);
        self
    }

    /// Nanoseconds of a launch on `threads` threads. Each of `jobs`, in the order of a launch, is an index into
    /// `heads`, which hold the tasks of a head by stage; `once` is done before, on one thread.
    #[must_use]
    pub fn nanos(&self, once: &Work, heads: &[&[Vec<Work>]], jobs: &[usize], elements: f64, threads: usize) -> f64 {
        let threads = threads.clamp(1, self.threads.max(1));
        let last = heads.iter().map(|stages| stages.len()).max().unwrap_or(0);
        let mut total = 0.0;
        for stage in 0..last {
            let times: Vec<Vec<f64>> = heads
                .iter()
                .map(|stages| stages.get(stage).into_iter().flatten().map(|w| self.rates.nanos(w, elements)).collect())
                .collect();
            // The last task of the last head comes first.
            let tasks = jobs.iter().rev().filter_map(|&head| times.get(head)).flat_map(|times| times.iter().rev());
            let count = jobs.iter().filter_map(|&head| times.get(head)).map(Vec::len).sum::<usize>();
            total += makespan(tasks.copied(), threads) * self.share(threads.min(count));
        }
        let mut before = Work::one(Term::Launches);
        before.add(once, 1);
        total + self.rates.nanos(&before, elements)
    }
}

/// Share of `bytes` that does not stay in `cache` bytes of cache when all are read again and again.
#[must_use]
pub fn uncached(bytes: f64, cache: f64) -> f64 {
    if bytes > cache { 1.0 - cache / bytes } else { 0.0 }
}

/// Most rounds of a fit.
const SWEEPS: usize = 20_000;

/// When the last of `threads` threads is done if each takes the next task as soon as it is free.
#[must_use]
pub fn makespan(tasks: impl IntoIterator<Item = f64>, threads: usize) -> f64 {
    /// Moments compare as numbers; they are never NaN.
    #[derive(PartialEq)]
    struct Moment(f64);
    impl Eq for Moment {}
    impl PartialOrd for Moment {
        fn partial_cmp(&self, other: &Moment) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    impl Ord for Moment {
        fn cmp(&self, other: &Moment) -> std::cmp::Ordering {
            self.0.total_cmp(&other.0)
        }
    }
    let mut free: BinaryHeap<Reverse<Moment>> = (0..threads.max(1)).map(|_| Reverse(Moment(0.0))).collect();
    let mut last = 0.0_f64;
    for task in tasks {
        if let Some(mut first) = free.peek_mut() {
            first.0.0 += task;
            last = last.max(first.0.0);
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work of some terms.
    fn work(of: &[(Term, u64)]) -> Work {
        let mut work = Work::default();
        for &(term, count) in of {
            work[term] = count;
        }
        work
    }

    #[test]
    fn rates_are_found_again() {
        let mut rates = Rates::default();
        (rates[Term::Products], rates[Term::Softmax], rates[Term::Chunks]) = (0.02, 0.5, 90.0);
        let free = [Term::Products, Term::Softmax, Term::Chunks, Term::Gathered];
        let mut samples = vec![];
        for (pairs, chunks, elements) in [(9000, 2, 64.0), (5000, 70, 64.0), (9000, 9, 128.0), (800, 8, 16.0)] {
            let work = work(&[(Term::Products, pairs), (Term::Softmax, pairs), (Term::Chunks, chunks)]);
            samples.push(Sample { work, elements, nanos: rates.nanos(&work, elements) });
        }
        let found = Rates::default().fit(&free, &samples);
        for term in free {
            assert!((found[term] - rates[term]).abs() <= 1e-3 * rates[term], "{}: {}", term.name(), found[term]);
        }
        // What is not free stays.
        let mut known = Rates::default();
        known[Term::Softmax] = 0.5;
        let found = known.fit(&[Term::Products, Term::Chunks], &samples);
        assert_eq!(found[Term::Softmax], 0.5);
        assert!((found[Term::Chunks] - 90.0).abs() < 0.1);
    }

    #[test]
    fn no_rate_is_negative() {
        let a = Sample { work: work(&[(Term::Rows, 1), (Term::Bits, 1)]), elements: 1.0, nanos: 1.0 };
        let b = Sample { work: work(&[(Term::Rows, 1), (Term::Bits, 2)]), elements: 1.0, nanos: 0.9 };
        let rates = Rates::default().fit(Term::ALL, &[a, b]);
        assert!(Term::ALL.iter().all(|&t| rates[t] >= 0.0));
        assert!(rates[Term::Rows] > 0.8 && rates[Term::Bits] < 1e-6);
    }

    #[test]
    fn time_follows_elements_where_it_should() {
        let mut rates = Rates::default();
        (rates[Term::Products], rates[Term::Chunks]) = (2.0, 3.0);
        assert_eq!(rates.nanos(&work(&[(Term::Products, 5), (Term::Chunks, 7)]), 10.0), 100.0 + 21.0);
    }

    #[test]
    fn threads_take_what_comes_next() {
        assert_eq!(makespan([4.0, 3.0, 2.0, 1.0], 2), 5.0);
        assert_eq!(makespan([1.0, 1.0, 4.0], 2), 5.0);
        assert_eq!(makespan([1.0, 2.0], 1), 3.0);
        assert_eq!(makespan([1.0, 2.0], 9), 2.0);
        assert_eq!(makespan([], 3), 0.0);
    }

    #[test]
    fn a_launch_is_its_tasks_over_threads() {
        let mut rates = Rates::default();
        (rates[Term::Tasks], rates[Term::Chunks], rates[Term::Launches]) = (10.0, 1.0, 7.0);
        let machine = Calibration { rates, threads: 2, alone: 0.5, cache: 0.0 };
        let tasks: Vec<Work> = (0..4).map(|chunks| work(&[(Term::Tasks, 1), (Term::Chunks, chunks)])).collect();
        let (one, two) = ([tasks.clone()], [tasks[..1].to_vec(), tasks]);
        let heads: [&[Vec<Work>]; 2] = [&one, &two];
        let nanos = |jobs: &[usize], threads| machine.nanos(&Work::default(), &heads, jobs, 64.0, threads);
        assert_eq!(nanos(&[0], 1), 0.5 * 46.0 + 7.0);
        assert_eq!(nanos(&[0], 2), 23.0 + 7.0);
        // More threads than can run do not help.
        assert_eq!(nanos(&[0, 0], 9), 46.0 + 7.0);
        // A stage waits for the one before it; a thread with the only task is alone.
        assert_eq!(nanos(&[1], 2), 5.0 + 23.0 + 7.0);
        assert_eq!(nanos(&[], 2), 7.0);
        // All tasks of the last but one take 46, of which no more fit in as long.
        assert!(machine.most(nanos(&[1], 2), 2) >= 56.0 && machine.most(nanos(&[0], 1), 1) >= 46.0);
    }

    #[test]
    fn parts_of_a_task_are_all_of_it() {
        let task = work(&[(Term::Tasks, 1), (Term::Rows, 4), (Term::Few, 1000), (Term::Chunks, 7)]);
        let mut sum = Work::default();
        (0..3).for_each(|i| sum.add(&task.part(i, 3), 1));
        assert_eq!(sum, work(&[(Term::Tasks, 3), (Term::Rows, 12), (Term::Few, 1000), (Term::Chunks, 7)]));
    }

    #[test]
    fn only_what_no_cache_holds_is_read() {
        let mut rates = Rates::default();
        rates[Term::Streamed] = 8.0;
        let machine = Calibration { rates, threads: 1, alone: 1.0, cache: 100.0 };
        assert_eq!([50.0, 100.0, 400.0].map(|b| machine.reading(b).rates[Term::Streamed]), [0.0, 0.0, 6.0]);
    }

    #[test]
    fn work_adds_up() {
        let mut sum = Work::one(Term::Tasks);
        sum.add(&work(&[(Term::Tasks, 2), (Term::Rows, 64)]), 3);
        assert_eq!((sum[Term::Tasks], sum[Term::Rows], sum.is_empty()), (7, 192, false));
        assert!(Work::default().is_empty());
    }
}
