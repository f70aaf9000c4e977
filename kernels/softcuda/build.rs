//! Names the cdylib as CUDA programs look for it: cudarc opens "libcuda.so", and the dynamic linker answers with a
//! library already loaded under that SONAME.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let family = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if ["linux", "freebsd", "android"].contains(&family.as_str()) {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    }
}
