//! Modules: PTX from memory or a file, its kernels and variables.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::call::{export, invalid, no_such, offer, put, unsupported, with};
use super::context::check_cache;
use super::device::SHARED_DEFAULT;
use super::report::write_text;
use super::state::{self, Kernel};
use super::status::{Failure, Outcome, Status};

/// No PTX is as long.
const LONGEST: usize = 1 << 30;

export! {
    /// Loads PTX from memory: text that ends with a 0.
    fn cuModuleLoadData(module: *mut usize, image: *const c_void) in_context {
        // SAFETY: the caller vouches for both pointers.
        unsafe { put(module, load("PTX in memory", text_at(image)?)?) }
    }
    /// As `cuModuleLoadData`; errors are also written to the buffer that option 5 names. Other options have no effect.
    fn cuModuleLoadDataEx(
        module: *mut usize, image: *const c_void, count: c_uint, options: *mut c_uint, values: *mut *mut c_void
    ) in_context {
        if count > 0 && (options.is_null() || values.is_null()) {
            return Err(invalid("the options are null"));
        }
        let option = |wanted: c_uint| (0..count as usize).find_map(|i| {
            // SAFETY: not null, and the caller vouches for `count` of each.
            unsafe { (*options.add(i) == wanted).then(|| *values.add(i)) }
        });
        // SAFETY: the caller vouches for the pointer.
        let outcome = unsafe { text_at(image) }.and_then(|text| load("PTX in memory", text));
        if let (Err(failure), Some(buffer), Some(bytes)) = (&outcome, option(5), option(6)) {
            // SAFETY: the caller vouches for a buffer of that many bytes (the value itself is the number).
            unsafe { write_text(&failure.text, buffer.cast(), bytes as usize)? };
        }
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(module, outcome?) }
    }
    /// Loads PTX from a file.
    fn cuModuleLoad(module: *mut usize, path: *const c_char) in_context {
        // SAFETY: the caller vouches for the pointer.
        let path = unsafe { name_at(path)? };
        let shown = path.to_string_lossy().into_owned();
        let bytes = fs::read(OsStr::from_bytes(path.to_bytes())).map_err(|e| {
            Failure::shown(Status::ERROR_FILE_NOT_FOUND, format!("{shown}: {e}"))
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(module, load(&shown, bytes)?) }
    }
    /// Machine code: there is no machine.
    fn cuModuleLoadFatBinary(_module: *mut usize, _image: *const c_void) in_context {
        Err(machine_code())
    }
    /// Forgets a module with its kernels and variables.
    fn cuModuleUnload(module: usize) in_context {
        with(|s| {
            s.kernels.retain(|_, kernel| kernel.module != module);
            s.modules.remove(&module).map(|_| ()).ok_or_else(|| no_such("module", module))
        })
    }
    /// The kernel of a name.
    fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) in_context {
        // SAFETY: the caller vouches for the pointer.
        let name = unsafe { name_at(name)? }.to_string_lossy().into_owned();
        let fresh = state::handle();
        let handle = with(|s| {
            let known = |k: &Kernel| k.module == module && k.function.name() == name;
            if let Some((&handle, _)) = s.kernels.iter().find(|(_, kernel)| known(kernel)) {
                return Ok(handle);
            }
            let function = s.modules.get(&module).ok_or_else(|| no_such("module", module))?.function(&name)?;
            let dynamic_limit = SHARED_DEFAULT.saturating_sub(function.shared_bytes());
            s.kernels.insert(fresh, Kernel { module, function, dynamic_limit });
            Ok(fresh)
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(function, handle) }
    }
    /// Address and bytes of a variable.
    fn cuModuleGetGlobal_v2(pointer: *mut u64, bytes: *mut usize, module: usize, name: *const c_char) in_context {
        // SAFETY: the caller vouches for the pointer.
        let name = unsafe { name_at(name)? }.to_string_lossy().into_owned();
        let (start, size) = with(|s| {
            let module = s.modules.get(&module).ok_or_else(|| no_such("module", module))?;
            Ok(module.global(&name)?)
        })?;
        // SAFETY: the caller vouches for both pointers, which may be null.
        unsafe { offer(pointer, start)?; offer(bytes, size) }
    }
    /// Everything is loaded at once (1).
    fn cuModuleGetLoadingMode(mode: *mut c_uint) initialised {
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(mode, 1) }
    }
    /// How many kernels a module has.
    fn cuModuleGetFunctionCount(count: *mut c_uint, module: usize) in_context {
        let number = with(|s| {
            let module = s.modules.get(&module).ok_or_else(|| no_such("module", module))?;
            Ok(module.functions().len() as c_uint)
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(count, number) }
    }
    /// The module of a kernel.
    fn cuFuncGetModule(module: *mut usize, function: usize) in_context {
        let own = with(|s| Ok(s.kernel(function)?.module))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(module, own) }
    }
    /// Limits and needs of a kernel: threads (0), static shared (1), constant (2) and local bytes (3), registers (4),
    /// PTX and binary version (5, 6), cache mode (7), greatest dynamic shared memory (8), carveout (9).
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: usize) in_context {
        let number = with(|s| {
            let Kernel { function, dynamic_limit, .. } = s.kernel(function)?;
            Ok(match attribute {
                0 => function.max_threads() as c_int,
                1 => function.shared_bytes() as c_int,
                2 | 7 => 0,
                3 => function.local_bytes() as c_int,
                // A thread of a GPU cannot have more; softcuda's virtual registers may be.
                4 => function.registers().min(255) as c_int,
                5 | 6 => 80,
                8 => *dynamic_limit as c_int,
                9 => -1,
                10..=16 => 0,
                _ => return Err(invalid(format!("{attribute} is no attribute of a function"))),
            })
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(value, number) }
    }
    /// Sets the greatest dynamic shared memory (8) up to what sm_80 has; the carveout (9) has no effect.
    fn cuFuncSetAttribute(function: usize, attribute: c_uint, value: c_int) in_context {
        with(|s| {
            let kernel = s.kernel(function)?;
            match attribute {
                8 => {
                    let most = super::device::SHARED_OPT_IN.saturating_sub(kernel.function.shared_bytes());
                    if value < 0 || value as usize > most {
                        return Err(invalid(format!(
                            "{}: {value} bytes of dynamic shared memory, 0 to {most} are possible",
                            kernel.function.name()
                        )));
                    }
                    kernel.dynamic_limit = value as usize;
                    Ok(())
                }
                9 if (-1..=100).contains(&value) => Ok(()),
                _ => Err(invalid(format!("attribute {attribute} of a function cannot be set to {value}"))),
            }
        })
    }
    /// A preference between cache and shared memory: accepted, without effect.
    fn cuFuncSetCacheConfig(function: usize, config: c_uint) in_context {
        with(|s| s.kernel(function).map(|_| ()))?;
        check_cache(config)
    }
    /// Accepted, without effect, as on devices since Maxwell.
    fn cuFuncSetSharedMemConfig(function: usize, _config: c_uint) in_context {
        with(|s| s.kernel(function).map(|_| ()))
    }
    /// Offset and bytes of a parameter; an error past the last: the way to learn how many there are.
    fn cuFuncGetParamInfo(function: usize, index: usize, offset: *mut usize, bytes: *mut usize) in_context {
        let (at, size) = with(|s| {
            let kernel = s.kernel(function)?;
            super::launch::layout(&kernel.function).nth(index).ok_or_else(|| {
                let (name, count) = (kernel.function.name(), kernel.function.params().len());
                invalid(format!("{name} has {count} parameters, none has the index {index}"))
            })
        })?;
        // SAFETY: the caller vouches for the pointers, the second of which may be null.
        unsafe { put(offset, at)?; offer(bytes, size) }
    }
    /// How many parameters a kernel has.
    fn cuFuncGetParamCount(function: usize, count: *mut usize) in_context {
        let number = with(|s| Ok(s.kernel(function)?.function.params().len()))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(count, number) }
    }
    /// Textures do not exist.
    fn cuModuleGetTexRef(_texture: *mut usize, _module: usize, _name: *const c_char) in_context {
        Err(unsupported("textures"))
    }
    /// Surfaces do not exist.
    fn cuModuleGetSurfRef(_surface: *mut usize, _module: usize, _name: *const c_char) in_context {
        Err(unsupported("surfaces"))
    }
}

/// # Safety
///
/// `name` must be null, or point to text that ends with a 0.
unsafe fn name_at<'a>(name: *const c_char) -> Outcome<&'a CStr> {
    if name.is_null() {
        return Err(invalid("the name is null"));
    }
    // SAFETY: not null, and the caller vouches for the rest.
    Ok(unsafe { CStr::from_ptr(name) })
}

/// The text at an address, up to a 0. Machine code is refused before anything is read past its magic number.
///
/// # Safety
///
/// `image` must be null, or point to text that ends with a 0, or to an ELF or fatbin image.
unsafe fn text_at(image: *const c_void) -> Outcome<Vec<u8>> {
    if image.is_null() {
        return Err(invalid("the image is null"));
    }
    let image: *const u8 = image.cast();
    let mut text = Vec::new();
    while text.len() < LONGEST {
        // SAFETY: no 0 was met yet, so the text goes on.
        match unsafe { image.add(text.len()).read() } {
            0 => break,
            byte => text.push(byte),
        }
        if is_machine_code(&text) {
            return Err(machine_code());
        }
    }
    Ok(text)
}

fn is_machine_code(start: &[u8]) -> bool {
    start.starts_with(b"\x7fELF") || start.starts_with(&0xba55_ed50u32.to_le_bytes())
}

fn machine_code() -> Failure {
    let text = "this is machine code for a GPU (cubin or fatbin); softcuda runs PTX";
    Failure::shown(Status::ERROR_NO_BINARY_FOR_GPU, text)
}

fn load(name: &str, bytes: Vec<u8>) -> Outcome<usize> {
    if is_machine_code(&bytes) {
        return Err(machine_code());
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let text = format!("{name}: no PTX: byte {at} is no text");
        Failure::shown(Status::ERROR_INVALID_IMAGE, text)
    })?;
    let text = text.trim_end_matches('\0');
    let handle = state::handle();
    let device = with(|s| {
        s.forbid_in_capture()?;
        Ok(s.device.clone())
    })?;
    let module = device.load(name, text)?;
    with(|s| {
        s.modules.insert(handle, module);
        Ok(())
    })?;
    Ok(handle)
}
