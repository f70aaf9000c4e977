//! Modules one after the other.

use std::sync::Arc;

use tilegrad_engine::{Result, Tensor};

use crate::module::{Context, LayerRow, Module, Parameter};

/// y = f_n(.. f_2(f_1(x))). Children have names, which prefix those of their parameters:
/// `features.0.weight`.
#[derive(Default)]
pub struct Sequential {
    children: Vec<(String, Arc<dyn Module>)>,
}

impl Sequential {
    /// The identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a child. Where PyTorch counts layers that are fused here (a relu inside a
    /// convolution), the caller skips their numbers: `.with("0", conv_with_relu).with("2", pool)`.
    pub fn with(mut self, name: impl Into<String>, child: impl Module + 'static) -> Self {
        self.children.push((name.into(), Arc::new(child)));
        self
    }

    /// The children for inference; one that a convolution takes in is left out.
    pub(crate) fn fold(&self) -> Result<Sequential> {
        let mut children = Vec::with_capacity(self.children.len());
        let mut rest = self.children.iter().peekable();
        while let Some((name, child)) = rest.next() {
            let affine = match rest.peek() {
                Some((_, next)) => next.channel_affine()?,
                None => None,
            };
            let both = affine.map(|affine| child.folded_with(&affine)).transpose()?.flatten();
            let folded = match both {
                Some(both) => {
                    rest.next();
                    both
                }
                None => child.folded()?.unwrap_or_else(|| child.clone()),
            };
            children.push((name.clone(), folded));
        }
        Ok(Sequential { children })
    }

    /// Number of children.
    pub fn len(&self) -> usize {
        self.children.len()
    }

    /// True when it has no child.
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }
}

impl Module for Sequential {
    fn kind(&self) -> &'static str {
        "Sequential"
    }

    fn forward(&self, x: &Tensor, ctx: &mut Context) -> Result<Tensor> {
        let mut x = x.clone();
        for (name, child) in &self.children {
            x = ctx.run(name, &**child, &x)?;
        }
        Ok(x)
    }

    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Parameter)) {
        for (name, child) in &self.children {
            child.visit(&format!("{prefix}{name}."), f);
        }
    }

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        let mut shape = x.to_vec();
        for (child_name, child) in &self.children {
            shape = child.describe(&join(name, child_name), &shape, rows)?;
        }
        Ok(shape)
    }

    fn folded(&self) -> Result<Option<Arc<dyn Module>>> {
        Ok(Some(Arc::new(self.fold()?)))
    }

    fn flattened(&self) -> Vec<(String, [usize; 3])> {
        let below = |(name, child): &(String, Arc<dyn Module>)| {
            let inner = child.flattened().into_iter();
            inner.map(|(weight, hwc)| (join(name, &weight), hwc)).collect::<Vec<_>>()
        };
        self.children.iter().flat_map(below).collect()
    }
}

/// `outer.inner`, or `inner` at the top.
pub(crate) fn join(outer: &str, inner: &str) -> String {
    if outer.is_empty() { inner.to_string() } else { format!("{outer}.{inner}") }
}
