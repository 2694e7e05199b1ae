//! Handles: numbers in a table, each given once.
//!
//! One idea: what C holds as a pointer is a number that is never followed. One that was freed, that is of another kind
//! or that is no handle at all is not in the table, and no number comes again.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use attnc::{Kernel, Module, Returned, Threads};
use std::sync::Arc;

/// What a handle stands for.
#[derive(Clone)]
pub(crate) enum Object {
    Module(Module),
    Kernel(Kernel),
    Threads(Arc<Threads>),
    Returned(Arc<[(CString, Returned)]>),
}

static TABLE: RwLock<Option<HashMap<usize, Object>>> = RwLock::new(None);

/// Odd numbers, so that a handle is never the address of a structure.
static NEXT: AtomicUsize = AtomicUsize::new(0x1001);

/// A new handle.
pub(crate) fn add<T>(object: Object) -> *mut T {
    let number = NEXT.fetch_add(2, Ordering::Relaxed);
    let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    table.get_or_insert_default().insert(number, object);
    std::ptr::without_provenance_mut(number)
}

/// What a handle stands for; `None` if it was freed or is none.
pub(crate) fn get<T>(handle: *const T) -> Option<Object> {
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    table.as_ref()?.get(&handle.addr()).cloned()
}

/// Frees a handle that is of a kind. What it stands for goes when nobody runs it any more.
pub(crate) fn remove(handle: *const c_void, of_kind: impl Fn(&Object) -> bool) {
    let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    let Some(table) = table.as_mut() else { return };
    if table.get(&handle.addr()).is_some_and(of_kind) {
        table.remove(&handle.addr());
    }
}
