//! Shaders and pipelines, each made when it is first needed and then kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::context::Context;
use crate::{Dtype, Error, Result};

/// The kernels of one file `shaders/<name>.wgsl`.
pub struct Family {
    /// Stem of the file.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
}

macro_rules! families {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $constant: Family = Family {
                name: $name,
                source: include_str!(concat!("../../../shaders/", $name, ".wgsl")),
            };
        )*

        /// All of them.
        pub const FAMILIES: &[Family] = &[$($constant),*];
    };
}

families! {
    /// Batch normalisation.
    BATCH_NORM = "batch_norm";
    /// Convolution.
    CONV2D_FORWARD = "conv2d_forward";
    /// Its gradient of x.
    CONV2D_BACKWARD_DATA = "conv2d_backward_data";
    /// Its gradient of the filter.
    CONV2D_BACKWARD_FILTER = "conv2d_backward_filter";
    /// Matrix products.
    MATMUL = "matmul";
    /// Matrix products by subgroups of 8.
    MATMUL_SUBGROUP = "matmul_subgroup";
    /// Functions of two inputs.
    BROADCAST = "broadcast";
    /// Cross-entropy.
    CROSS_ENTROPY = "cross_entropy";
    /// Dropout.
    DROPOUT = "dropout";
    /// Functions of one input.
    ELEMENTWISE = "elementwise";
    /// Checks of labels and indices.
    INDICES = "indices";
    /// Filling and converting.
    MEMORY = "memory";
    /// Movement of elements.
    MOVEMENT = "movement";
    /// Parameter updates.
    OPTIMIZER = "optimizer";
    /// Pooling.
    POOL2D = "pool2d";
    /// Reductions over axes.
    REDUCE = "reduce";
    /// Softmax and log-softmax.
    SOFTMAX = "softmax";
}

impl Family {
    /// Names of the kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &'static str> {
        let entries = self.source.split("@compute ").skip(1);
        entries.filter_map(|rest| rest.split_once("fn ")?.1.split('(').next())
    }
}

/// The lines that name a file's element types, as the file stands: of numbers, and of what is only moved.
const STORAGE: &str = "alias Storage = f32;";
const ELEMENT: &str = "alias Element = u32;";

/// The text of a shader for buffers of `dtype`.
pub fn text(source: &str, dtype: Dtype) -> String {
    match dtype {
        Dtype::F16 => {
            let half = source.replacen(STORAGE, "alias Storage = f16;", 1);
            let half = half.replacen(ELEMENT, "alias Element = f16;", 1);
            format!("enable f16;\n{half}")
        }
        _ => source.to_string(),
    }
}

/// Values of a shader's `override` constants.
pub type Constants<'a> = &'a [(&'static str, u32)];

/// How a kernel uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    family: &'static str,
    entry: &'static str,
    dtype: Dtype,
    constants: Vec<(&'static str, u32)>,
    access: Vec<Access>,
}

/// The layout of a kernel's bind group, and what is built for it: binding 0 is the uniform struct (with a
/// dynamic offset), and the buffers follow in their order.
#[derive(Clone)]
struct Layout {
    group: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

/// A kernel, ready to be dispatched.
pub struct Pipeline {
    /// Name of its entry point.
    pub entry: &'static str,
    /// The compiled kernel.
    pub pipeline: wgpu::ComputePipeline,
    /// Its bind group's layout.
    pub group: wgpu::BindGroupLayout,
}

#[derive(Default)]
struct Caches {
    modules: HashMap<(&'static str, Dtype), wgpu::ShaderModule>,
    layouts: HashMap<Vec<Access>, Layout>,
    pipelines: HashMap<Key, Arc<Pipeline>>,
}

/// All that was made for one device.
#[derive(Default)]
pub struct Pipelines {
    caches: Mutex<Caches>,
}

impl Pipelines {
    /// Names of the kernels that were made so far.
    pub fn loaded(&self) -> Vec<&'static str> {
        let caches = self.caches.lock().unwrap_or_else(|e| e.into_inner());
        caches.pipelines.keys().map(|key| key.entry).collect()
    }

    /// The kernel `entry` of `family` for buffers of `dtype`.
    pub fn get(
        &self,
        context: &Context,
        op: &'static str,
        family: &Family,
        entry: &'static str,
        dtype: Dtype,
        constants: Constants<'_>,
        access: &[Access],
    ) -> Result<Arc<Pipeline>> {
        // A panic while the lock is held leaves at worst an entry that was not added.
        let mut caches = self.caches.lock().unwrap_or_else(|e| e.into_inner());
        let key = Key {
            family: family.name,
            entry,
            dtype,
            constants: constants.to_vec(),
            access: access.to_vec(),
        };
        if let Some(found) = caches.pipelines.get(&key) {
            return Ok(found.clone());
        }
        let limit = context.limits.max_storage_buffers_per_shader_stage as usize;
        if access.len() > limit {
            let got = access.len();
            let detail =
                format!("needs {got} storage buffers, but the adapter binds at most {limit}");
            return Err(Error::argument(op, detail));
        }
        let module = caches
            .modules
            .entry((family.name, dtype))
            .or_insert_with(|| module(context, family, dtype))
            .clone();
        let layout = caches
            .layouts
            .entry(access.to_vec())
            .or_insert_with(|| layout(context, access))
            .clone();
        let values: Vec<(&str, f64)> =
            constants.iter().map(|&(name, value)| (name, f64::from(value))).collect();
        let pipeline = context.gpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: Some(&layout.pipeline),
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &values,
                // Kernels write what they read.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        context.check(op)?;
        let pipeline = Arc::new(Pipeline { entry, pipeline, group: layout.group });
        caches.pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

fn module(context: &Context, family: &Family, dtype: Dtype) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(family.name),
        source: wgpu::ShaderSource::Wgsl(text(family.source, dtype).into()),
    };
    let checks = wgpu::ShaderRuntimeChecks::unchecked();
    // SAFETY: the shaders are this project's own. They index buffers below the sizes that their launchers
    // checked against the buffers, rounded up to 4 elements at most (a pool's block is a multiple of 256
    // bytes), their loops run to sizes in the uniforms, and they divide by sizes that are not 0.
    unsafe { context.gpu.create_shader_module_trusted(descriptor, checks) }
}

fn layout(context: &Context, access: &[Access]) -> Layout {
    let entry = |binding: usize, ty: wgpu::BufferBindingType| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: ty == wgpu::BufferBindingType::Uniform,
            min_binding_size: None,
        },
        count: None,
    };
    let storage = access.iter().enumerate().map(|(i, &access)| {
        let read_only = access == Access::Read;
        entry(1 + i, wgpu::BufferBindingType::Storage { read_only })
    });
    let entries: Vec<_> =
        [entry(0, wgpu::BufferBindingType::Uniform)].into_iter().chain(storage).collect();
    let descriptor = wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries };
    let group = context.gpu.create_bind_group_layout(&descriptor);
    let pipeline = context.gpu.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&group)],
        immediate_size: 0,
    });
    Layout { group, pipeline }
}
