//! What a backend has derived from a buffer and keeps with its memory: the packed or transformed
//! filters of a convolution, say.
//!
//! A [`Derived`] belongs to one block of memory. Its owner empties it whenever it gives the memory
//! out to be written, so that nothing derived outlives the elements that it came from, and it goes
//! when the memory goes.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Result;

/// What was derived, and with which parameters: two keys are equal only if the same elements give
/// the same value under both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// What it is: `winograd filters`.
    pub what: &'static str,
    /// Instruction set, sizes, options: all that it depends on besides the elements.
    pub parameters: [usize; 8],
}

type Entry = (Key, Arc<dyn Any + Send + Sync>);

/// Values by key. There are few of them.
#[derive(Default)]
pub struct Derived(Mutex<Vec<Entry>>);

impl Derived {
    /// The value under `key`, made by `make` if there is none. Other threads that want any value of
    /// this buffer wait while it is made.
    pub fn get_or_make<T: Any + Send + Sync>(
        &self,
        key: Key,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = entries.iter().find(|(k, _)| *k == key).map(|(_, value)| value.clone());
        if let Some(value) = found.and_then(|value| value.downcast().ok()) {
            return Ok(value);
        }
        let value = Arc::new(make()?);
        entries.push((key, value.clone()));
        Ok(value)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_value_is_made_once_a_key_and_again_after_it_was_forgotten() {
        let mut derived = Derived::default();
        let key = |n| Key { what: "test", parameters: [n; 8] };
        let mut made = 0;
        let mut get = |derived: &Derived, n: usize| {
            let value = derived.get_or_make(key(n), || {
                made += 1;
                Ok(made)
            });
            *value.unwrap()
        };
        assert_eq!([get(&derived, 1), get(&derived, 2), get(&derived, 1)], [1, 2, 1]);
        derived.clear();
        assert_eq!(get(&derived, 1), 3);
        let error = derived.get_or_make::<i32>(key(9), || Err(Error::argument("test", "no")));
        assert!(error.is_err());
        assert_eq!(*derived.get_or_make(key(9), || Ok(7)).unwrap(), 7, "an error is not kept");
    }
}
