//! Machine code that is kept in memory, as a directory keeps it on disk.

#![allow(unsafe_code, reason = "what is kept is run")]

use std::collections::HashMap;
use std::sync::Mutex;

use attnc::Store;

/// Kernels by name.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<HashMap<String, Vec<u8>>>);

impl Shelf {
    /// Runs something on everything that is kept.
    ///
    /// # Panics
    /// If another thread has while it held the shelf.
    pub fn each(&self, mut change: impl FnMut(&mut Vec<u8>)) {
        self.0.lock().expect("nobody panics while he holds it").values_mut().for_each(&mut change);
    }
}

// SAFETY: what is put is the library's own, and nobody else can reach it.
unsafe impl Store for Shelf {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.0.lock().ok()?.get(name).cloned()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        if let Ok(mut all) = self.0.lock() {
            all.insert(name.to_owned(), bytes.to_owned());
        }
    }
}
