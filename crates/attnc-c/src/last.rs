//! The last error of each thread, as text and as JSON.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

use attnc::Diagnostics;
use attnc_host::{Drawing, json};

#[derive(Default)]
struct Last {
    text: CString,
    json: CString,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::default();
}

/// Keeps what was said.
pub(crate) fn set(said: &Diagnostics) {
    // Nothing that is drawn holds a zero but a text of the caller, whose zeros say nothing.
    let of = |text: String| CString::new(text.replace('\0', "")).unwrap_or_default();
    let last = Last { text: of(Drawing::default().all(said)), json: of(json(said).to_string()) };
    LAST.with_borrow_mut(|kept| *kept = last);
}

/// Nothing is wrong.
pub(crate) fn clear() {
    LAST.with_borrow_mut(|kept| *kept = Last::default());
}

fn pointer(of: impl Fn(&Last) -> &CStr) -> *const c_char {
    // At the end of a thread there is nothing left to say.
    LAST.try_with(|kept| of(&kept.borrow()).as_ptr()).unwrap_or(c"".as_ptr())
}

pub(crate) fn text() -> *const c_char {
    pointer(|last| &last.text)
}

pub(crate) fn as_json() -> *const c_char {
    pointer(|last| &last.json)
}
