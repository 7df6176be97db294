//! The bridge between a network and named tensors. A parameter's name is the path of fields that leads to it, joined by
//! dots; fields are named as in the reference programs' state_dict, so that names match without a table.

use std::collections::BTreeMap;
use std::fmt;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Gradients, Tensor, TensorData};

use crate::artifact::weights::{NamedTensors, Values};

/// Keeps the dotted path while a module is walked. Variants of enums add nothing to it.
#[derive(Debug, Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.push(name.to_owned());
        }
    }

    pub(crate) fn exit(&mut self, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.pop();
        }
    }

    pub(crate) fn name(&self) -> String {
        self.0.join(".")
    }
}

/// What tensors fit a network and which do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// The network has them, the tensors lack them.
    pub missing: Vec<String>,
    /// The tensors have them, the network knows nothing of them.
    pub unexpected: Vec<String>,
    /// Both have them with different shapes, which are part of the text.
    pub misshapen: Vec<String>,
}

impl Mismatch {
    /// Returns whether everything fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshapen.is_empty()
    }
}

impl std::error::Error for Mismatch {}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("lacks", &self.missing), ("does not know", &self.unexpected), ("differs in", &self.misshapen)];
        let mut first = true;
        for (verb, names) in parts.into_iter().filter(|(_, names)| !names.is_empty()) {
            let separator = if first { "the weights do not fit: the network " } else { "; " };
            let verb = if verb == "lacks" { "needs" } else { verb };
            write!(formatter, "{separator}{verb} ")?;
            first = false;
            for (i, name) in names.iter().take(3).enumerate() {
                write!(formatter, "{}`{name}`", if i > 0 { ", " } else { "" })?;
            }
            if names.len() > 3 {
                write!(formatter, " and {} more", names.len() - 3)?;
            }
        }
        Ok(())
    }
}

/// Returns name and shape of every tensor, buffers included.
pub fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    struct Visitor(Path, BTreeMap<String, Vec<usize>>);
    impl ModuleVisitor for Visitor {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, container: &str) {
            self.0.exit(container);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.insert(self.0.name(), param.lazy_shape().to_vec());
        }
    }
    let mut visitor = Visitor(Path::default(), BTreeMap::new());
    module.visit(&mut visitor);
    visitor.1
}

/// Returns every tensor of a network, buffers included.
pub fn export<M: Module>(module: &M) -> NamedTensors {
    struct Visitor(Path, NamedTensors);
    impl ModuleVisitor for Visitor {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, container: &str) {
            self.0.exit(container);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let shape = tensor.dims().to_vec();
            let data = tensor.into_data().iter::<f32>().collect();
            self.1.insert(self.0.name(), Values { shape, data });
        }
    }
    let mut visitor = Visitor(Path::default(), NamedTensors::new());
    module.visit(&mut visitor);
    visitor.1
}

/// Returns the gradient of every parameter that has one.
pub fn gradients<M: Module>(module: &M, gradients: &Gradients) -> NamedTensors {
    struct Visitor<'a>(Path, &'a Gradients, NamedTensors);
    impl ModuleVisitor for Visitor<'_> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, container: &str) {
            self.0.exit(container);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = param.val().grad(self.1) else { return };
            let shape = gradient.dims().to_vec();
            self.2.insert(self.0.name(), Values { shape, data: gradient.into_data().iter::<f32>().collect() });
        }
    }
    let mut visitor = Visitor(Path::default(), gradients, NamedTensors::new());
    module.visit(&mut visitor);
    visitor.2
}

/// Takes over every tensor that fits and reports what does not.
pub fn load<M: Module>(module: M, tensors: &NamedTensors) -> (M, Mismatch) {
    struct Mapper<'a> {
        path: Path,
        tensors: &'a NamedTensors,
        seen: BTreeMap<String, ()>,
        report: Mismatch,
    }
    impl ModuleMapper for Mapper<'_> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, container: &str) {
            self.path.exit(container);
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.path.name();
            let Some(values) = self.tensors.get(&name) else {
                self.report.missing.push(name);
                return param;
            };
            self.seen.insert(name.clone(), ());
            let shape = param.lazy_shape().to_vec();
            if shape != values.shape {
                self.report.misshapen.push(format!("{name} ({shape:?}, not {:?})", values.shape));
                return param;
            }
            param.map(|old| replaced(&old, TensorData::new(values.data.clone(), shape)))
        }
    }
    let mut mapper = Mapper { path: Path::default(), tensors, seen: BTreeMap::new(), report: Mismatch::default() };
    let module = module.map(&mut mapper);
    let Mapper { seen, mut report, .. } = mapper;
    report.unexpected = tensors.keys().filter(|name| !seen.contains_key(*name)).cloned().collect();
    (module, report)
}

/// Takes over tensors that must all fit.
///
/// # Errors
/// Names what is missing, unexpected or of another shape.
pub fn load_strict<M: Module>(module: M, tensors: &NamedTensors) -> Result<M, Mismatch> {
    match load(module, tensors) {
        (module, report) if report.is_empty() => Ok(module),
        (_, report) => Err(report),
    }
}

/// Stops or starts the training of parameters: those for which `trains(name)` is false get no gradient.
///
/// Buffers such as running means never train, whatever `trains` says.
pub fn set_trainable<M: Module>(module: M, trains: impl Fn(&str) -> bool) -> M {
    struct Mapper<F>(Path, F);
    impl<F: Fn(&str) -> bool> ModuleMapper for Mapper<F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, container: &str) {
            self.0.exit(container);
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.0.name();
            let buffer = name.ends_with("running_mean") || name.ends_with("running_var");
            let trains = !buffer && (self.1)(&name);
            param.set_require_grad(trains)
        }
    }
    module.map(&mut Mapper(Path::default(), trains))
}

/// Returns a network with f64 parameters, which computes in f64 when its input is f64, too.
pub fn in_f64<M: Module>(module: M) -> M {
    struct Mapper;
    impl ModuleMapper for Mapper {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.cast(DType::F64))
        }
    }
    module.map(&mut Mapper)
}

/// Returns a tensor with new values in the place of `old`: same device, same part in training.
pub(crate) fn replaced<const D: usize>(old: &Tensor<D>, data: TensorData) -> Tensor<D> {
    let inner = Tensor::<D>::from_data(data, &old.device().without_autodiff());
    if old.is_autodiff() { Tensor::from_inner(inner).set_require_grad(old.is_require_grad()) } else { inner }
}
