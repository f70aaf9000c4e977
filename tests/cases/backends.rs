//! The backends that the table runs on: made once, named, and visibly skipped where the machine
//! lacks them.

use std::sync::{Arc, Mutex, OnceLock};

use tilegrad_engine::{Backend, Device, Dtype};
use tilegrad_kernels::cpu::simd::Isa;
use tilegrad_kernels::cpu::{ConvAlgorithm, Cpu, CpuOptions};
use tilegrad_kernels::cuda::{self, Cuda, CudaOptions, MatmulAlgorithm};
use tilegrad_kernels::reference::Reference;
use tilegrad_kernels::wgpu::{self, Wgpu, WgpuOptions};

/// A backend, at one dtype.
#[derive(Clone)]
pub struct TestBackend {
    /// `reference`, `cpu/avx2`, ...
    pub name: String,
    /// The kernels.
    pub backend: Arc<dyn Backend>,
    /// Of all float tensors.
    pub dtype: Dtype,
    /// Inputs are rounded to it first: `dtype`, but for an oracle of a shorter one.
    pub rounding: Dtype,
    /// It may pick a convolution algorithm that rounds where plain sums of integers would not
    /// (Winograd's transforms).
    pub approximate_convolution: bool,
    /// It runs one convolution algorithm, whatever the shape; everything else as the backend of the
    /// same name.
    pub forced_convolution: bool,
}

/// The reference backend at f64: what everything else is compared with.
pub fn oracle() -> &'static TestBackend {
    static ORACLE: OnceLock<TestBackend> = OnceLock::new();
    ORACLE.get_or_init(|| reference(Dtype::F64))
}

/// The oracle for a backend: the reference at f64, on inputs rounded as that backend's are.
pub fn oracle_of(on: &TestBackend) -> TestBackend {
    TestBackend { rounding: on.rounding, ..oracle().clone() }
}

fn reference(dtype: Dtype) -> TestBackend {
    TestBackend {
        name: format!("reference/{dtype}"),
        backend: Arc::new(Reference::new()),
        dtype,
        rounding: Dtype::F32,
        approximate_convolution: false,
        forced_convolution: false,
    }
}

/// A CPU backend whose new buffers are full of NaN. `None` where the machine lacks `isa`.
pub fn cpu_with(isa: Isa, threads: usize, conv: Option<ConvAlgorithm>) -> Option<TestBackend> {
    if !isa.is_available() {
        return None;
    }
    let options = CpuOptions { threads: Some(threads), isa: Some(isa), conv, poison: true };
    let backend = Cpu::new(options).unwrap_or_else(|e| panic!("cpu/{isa}: {e}"));
    let algorithm = conv.map(|c| format!("/{c}")).unwrap_or_default();
    Some(TestBackend {
        name: format!("cpu/{isa}{algorithm}"),
        backend: Arc::new(backend),
        dtype: Dtype::F32,
        rounding: Dtype::F32,
        approximate_convolution: conv.is_none_or(|c| c == ConvAlgorithm::Winograd),
        forced_convolution: conv.is_some(),
    })
}

/// Every backend of this machine with its default choice of algorithms: what users run.
pub fn default_backends() -> &'static [TestBackend] {
    static LIST: OnceLock<Vec<TestBackend>> = OnceLock::new();
    LIST.get_or_init(|| {
        let mut list = vec![reference(Dtype::F32)];
        for isa in f32_isas().filter(|&isa| is_wanted_on(isa)) {
            match cpu_with(isa, 2, None) {
                Some(backend) => list.push(backend),
                None => eprintln!("SKIPPED cpu/{isa}: this processor does not have it"),
            }
        }
        require(list.iter().chain(half_backends()).chain(cuda_backends()).chain(wgpu_backends()));
        list
    })
}

/// Every backend of this machine, with each convolution algorithm that adds plain products, once.
pub fn exact_backends() -> &'static [TestBackend] {
    static LIST: OnceLock<Vec<TestBackend>> = OnceLock::new();
    LIST.get_or_init(|| {
        let mut list = vec![reference(Dtype::F32)];
        for isa in f32_isas().filter(|&isa| is_wanted_on(isa)) {
            for algorithm in EXACT_ALGORITHMS {
                list.extend(cpu_with(isa, 2, Some(algorithm)));
            }
        }
        list
    })
}

/// Instruction sets that differ in f32.
fn f32_isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|&isa| isa != Isa::Avx512Bf16)
}

/// The same backend at another dtype.
pub fn at(on: TestBackend, dtype: Dtype) -> TestBackend {
    TestBackend { name: format!("{}/{dtype}", on.name), dtype, rounding: dtype, ..on }
}

/// 16-bit floats: bf16 on every instruction set, as users run it and with convolution algorithms that
/// add plain products; f16, which every instruction set widens alike, on the strongest.
pub fn half_backends() -> &'static [TestBackend] {
    static LIST: OnceLock<Vec<TestBackend>> = OnceLock::new();
    LIST.get_or_init(|| {
        let wanted = || Isa::ALL.into_iter().filter(|&isa| is_wanted_on(isa));
        for isa in wanted().filter(|isa| !isa.is_available()) {
            eprintln!("SKIPPED cpu/{isa}/bf16: this processor does not have it");
        }
        let bf16 = wanted().flat_map(|isa| {
            let algorithms = [None].into_iter().chain(EXACT_ALGORITHMS.map(Some));
            algorithms.filter_map(move |conv| Some(at(cpu_with(isa, 2, conv)?, Dtype::BF16)))
        });
        let strongest = Some(Isa::detect()).filter(|&isa| is_wanted_on(isa));
        let f16 = strongest.and_then(|isa| cpu_with(isa, 2, None)).map(|on| at(on, Dtype::F16));
        bf16.chain(f16).collect()
    })
}

/// Convolution algorithms without transforms.
const EXACT_ALGORITHMS: [ConvAlgorithm; 1] = [ConvAlgorithm::Direct];

/// Both lists: each backend as users run it, and each convolution algorithm.
pub fn backends() -> impl Iterator<Item = &'static TestBackend> {
    default_backends().iter().chain(&exact_backends()[1..])
}

/// The CUDA kernels in f32, f16 and bf16, as users run them, on [`cuda_device`].
pub fn cuda_backends() -> &'static [TestBackend] {
    static LIST: OnceLock<Vec<TestBackend>> = OnceLock::new();
    LIST.get_or_init(|| {
        let on = cuda_with("", CudaOptions::default());
        let dtypes = |on: TestBackend| CUDA_DTYPES.map(|dtype| at(on.clone(), dtype));
        on.into_iter().flat_map(dtypes).collect()
    })
}

const CUDA_DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// The rungs of CUDA's ladders for `op`, each forced wherever it applies. (Not tf32, which is less exact
/// than the tolerances of f32.)
pub fn cuda_rungs(op: &str) -> impl Iterator<Item = &'static TestBackend> {
    static LIST: OnceLock<Vec<(&[&str], TestBackend)>> = OnceLock::new();
    let list = LIST.get_or_init(|| {
        let mut list: Vec<(&[&str], TestBackend)> = Vec::new();
        if cuda_backends().is_empty() {
            return list;
        }
        let mut add = |ops, name: &str, options, is_for: &dyn Fn(Dtype) -> bool| {
            let on = cuda_with(name, options).expect("it was there for cuda_backends");
            let dtypes = CUDA_DTYPES.into_iter().filter(|&dtype| is_for(dtype));
            list.extend(dtypes.map(|dtype| (ops, at(on.clone(), dtype))));
        };
        let first = CudaOptions { first_rung: true, ..Default::default() };
        add(&["softmax", "log_softmax"], "/first", first, &|_| true);
        for rung in MatmulAlgorithm::ALL {
            if rung == MatmulAlgorithm::TensorCoreTf32 {
                continue;
            }
            let options = CudaOptions { matmul: Some(rung), ..Default::default() };
            add(&["matmul", "linear"], &format!("/{rung}"), options, &|dtype| rung.is_for(dtype));
        }
        for rung in cuda::ConvAlgorithm::ALL {
            let options = CudaOptions { conv: Some(rung), ..Default::default() };
            let ops = &["conv2d", "conv2d_inference"];
            add(ops, &format!("/{rung}"), options, &|dtype| rung.is_for(dtype));
        }
        list
    });
    list.iter().filter(move |(ops, _)| ops.contains(&op)).map(|(_, on)| on)
}

/// The device on which CUDA kernels are tested, since one process has one CUDA driver: the one that
/// `TILEGRAD_REQUIRE` names, or else the GPU where there is one, or else softcuda.
pub fn cuda_device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let required = std::env::var("TILEGRAD_REQUIRE").unwrap_or_default();
        let [gpu, soft] = [Device::Cuda(0), Device::SoftCuda];
        match (is_named(&required, &gpu.to_string()), is_named(&required, &soft.to_string())) {
            (true, true) => panic!(
                "TILEGRAD_REQUIRE={required}: one process has one CUDA driver; run the tests twice"
            ),
            (true, false) => gpu,
            (false, true) => soft,
            (false, false) => match cuda::probe(gpu) {
                Ok(what) => {
                    eprintln!("SKIPPED softcuda: {what} is tested; TILEGRAD_REQUIRE=softcuda says otherwise");
                    gpu
                }
                Err(reason) => {
                    eprintln!("SKIPPED {gpu}: {reason}");
                    soft
                }
            },
        }
    })
}

static CUDAS: Mutex<Vec<(String, Arc<Cuda>)>> = Mutex::new(Vec::new());

/// Every CUDA backend that this process has opened for tests, by name.
pub fn cudas() -> Vec<(String, Arc<Cuda>)> {
    CUDAS.lock().expect("no panic in between").clone()
}

/// The CUDA kernels with options, and a name for those, in f32; none where there is no device. Every buffer is
/// an allocation of its own, so that softcuda and compute-sanitizer see each overrun, and full of NaN (unless
/// `TILEGRAD_POISON=0`, since memory that was filled hides from them that a kernel reads what none has written).
pub fn cuda_with(name: &str, options: CudaOptions) -> Option<TestBackend> {
    let device = cuda_device();
    let poison = std::env::var("TILEGRAD_POISON").as_deref() != Ok("0");
    let options = CudaOptions { poison, exact_allocations: true, ..options };
    let cuda = Arc::new(open_cuda(options)?);
    let name = format!("{device}{name}");
    CUDAS.lock().expect("no panic in between").push((name.clone(), cuda.clone()));
    Some(TestBackend {
        name,
        backend: cuda,
        dtype: Dtype::F32,
        rounding: Dtype::F32,
        approximate_convolution: false,
        forced_convolution: false,
    })
}

/// A CUDA backend of the caller's own. `None`, said on stderr, where the device is absent: a failure if
/// `TILEGRAD_REQUIRE` names it.
pub fn open_cuda(options: CudaOptions) -> Option<Cuda> {
    let device = cuda_device();
    or_skipped(device, Cuda::new(device, options))
}

/// A wgpu backend of the caller's own, likewise.
pub fn open_wgpu(options: WgpuOptions) -> Option<Wgpu> {
    let device = Device::Wgpu(0);
    or_skipped(device, Wgpu::new(device, options))
}

fn or_skipped<B>(device: Device, opened: tilegrad_kernels::Result<B>) -> Option<B> {
    if let Err(e) = &opened {
        assert!(!is_required(&device.to_string()), "TILEGRAD_REQUIRE: {e}");
        eprintln!("SKIPPED {device}: {e}");
    }
    opened.ok()
}

/// Whether `TILEGRAD_REQUIRE` names a device.
pub fn is_required(device: &str) -> bool {
    std::env::var("TILEGRAD_REQUIRE").is_ok_and(|list| is_named(&list, device))
}

static WGPUS: Mutex<Vec<(String, Arc<Wgpu>)>> = Mutex::new(Vec::new());

/// Every wgpu backend that this process has opened for tests, by name.
pub fn wgpus() -> Vec<(String, Arc<Wgpu>)> {
    WGPUS.lock().expect("no panic in between").clone()
}

/// The WGSL kernels in f32, and in f16 where the adapter has it, as users run them.
pub fn wgpu_backends() -> &'static [TestBackend] {
    static LIST: OnceLock<Vec<TestBackend>> = OnceLock::new();
    LIST.get_or_init(|| wgpu_with("", WgpuOptions::default()))
}

/// The WGSL kernels with options, and a name for those; none where there is no adapter. Buffers start full of
/// NaN, and the graphics API's validation layer looks on where it is installed.
pub fn wgpu_with(name: &str, options: WgpuOptions) -> Vec<TestBackend> {
    crate::validation::listen();
    let options = WgpuOptions { poison: true, validation: true, ..options };
    let Some(wgpu) = open_wgpu(options) else { return Vec::new() };
    let has_f16 = wgpu.has_f16();
    let wgpu = Arc::new(wgpu);
    let full = format!("wgpu{name}");
    WGPUS.lock().expect("no panic in between").push((full.clone(), wgpu.clone()));
    let on = TestBackend {
        name: full,
        backend: wgpu,
        dtype: Dtype::F32,
        rounding: Dtype::F32,
        approximate_convolution: false,
        forced_convolution: false,
    };
    if !has_f16 {
        eprintln!("SKIPPED wgpu{name}/f16: the adapter does not have it");
        return vec![at(on, Dtype::F32)];
    }
    vec![at(on.clone(), Dtype::F32), at(on, Dtype::F16)]
}

/// Whether the adapter has subgroups of 8 threads, for which there is a rung of its own.
pub fn has_subgroup_tile() -> bool {
    wgpu_backends();
    wgpus().iter().any(|(_, wgpu)| wgpu.has_subgroup_tile())
}

/// The rungs of the WGSL ladders for `op`, each forced wherever it applies.
pub fn wgpu_rungs(op: &str) -> impl Iterator<Item = &'static TestBackend> {
    static LIST: OnceLock<Vec<(&[&str], TestBackend)>> = OnceLock::new();
    let list = LIST.get_or_init(|| {
        let mut list: Vec<(&[&str], TestBackend)> = Vec::new();
        if wgpu_backends().is_empty() {
            return list;
        }
        let first = WgpuOptions { first_rung: true, ..Default::default() };
        let rows = ["softmax", "log_softmax", "conv2d", "conv2d_inference"].as_slice();
        list.extend(wgpu_with("/first", first).into_iter().map(|on| (rows, on)));
        for rung in wgpu::MatmulAlgorithm::ALL {
            if rung == wgpu::MatmulAlgorithm::SubgroupTile && !has_subgroup_tile() {
                eprintln!("SKIPPED wgpu/{rung}: the adapter's subgroups do not have 8 threads");
                continue;
            }
            let options = WgpuOptions { matmul: Some(rung), ..Default::default() };
            let products = ["matmul", "linear"].as_slice();
            let backends = wgpu_with(&format!("/{rung}"), options);
            list.extend(backends.into_iter().map(|on| (products, on)));
        }
        list
    });
    list.iter().filter(move |(ops, _)| ops.contains(&op)).map(|(_, on)| on)
}

/// The same CPU with 1, 2 and 5 threads, for each instruction set, and for the strongest in bf16.
pub fn thread_counts() -> &'static [[TestBackend; 3]] {
    static LIST: OnceLock<Vec<[TestBackend; 3]>> = OnceLock::new();
    LIST.get_or_init(|| {
        let three =
            |isa| Some([cpu_with(isa, 1, None)?, cpu_with(isa, 2, None)?, cpu_with(isa, 5, None)?]);
        let bf16 = three(Isa::detect()).map(|list| list.map(|on| at(on, Dtype::BF16)));
        let all = f32_isas().filter_map(three).chain(bf16);
        all.filter(|[one, ..]| is_wanted(&one.name)).collect()
    })
}

/// `TILEGRAD_REQUIRE=cpu/avx2,softcuda` makes the absence of a backend a failure. `chromium` is no backend: it is
/// asked for in cifar/tests/web.
fn require<'a>(list: impl Iterator<Item = &'a TestBackend> + Clone) {
    let Ok(required) = std::env::var("TILEGRAD_REQUIRE") else { return };
    for name in names(&required).filter(|name| *name != "chromium") {
        let present = list.clone().any(|on| is_or_is_kind_of(&on.name, name));
        assert!(present, "TILEGRAD_REQUIRE names {name}, which this machine or this build lacks");
    }
}

/// Whether `TILEGRAD_ONLY`, a list as that of `TILEGRAD_REQUIRE`, leaves a CPU backend in: a machine that
/// is there for its GPU need not test its processor again. The reference stays, to compare with.
fn is_wanted(name: &str) -> bool {
    std::env::var("TILEGRAD_ONLY")
        .map_or(true, |only| names(&only).any(|n| is_or_is_kind_of(name, n)))
}

fn is_wanted_on(isa: Isa) -> bool {
    is_wanted(&format!("cpu/{isa}"))
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// Whether a list has this backend or one of its kinds (`cuda/f16`).
fn is_named(list: &str, backend: &str) -> bool {
    names(list).any(|name| is_or_is_kind_of(name, backend))
}

/// `cpu/avx2/f32` is a kind of `cpu/avx2`; `softcuda` is none of `soft`.
fn is_or_is_kind_of(name: &str, of: &str) -> bool {
    name.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
