//! `attnc export`: a mask in the format of another engine, as safetensors or as JSON.

use std::collections::HashMap;

use attnc::{Array, ExportOptions, Exported, Format, Shape, Values};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::args::{ExportArgs, ExportAs, Target};
use crate::files;
use crate::report::{Outcome, Reporter};
use crate::subject::{self, Data};
use crate::tensors::{self, TensorFile};

pub(crate) fn export(args: &ExportArgs, reporter: Reporter) -> Outcome {
    let module = subject::module(&args.subject.path, subject::options(&args.set, &Target::Oracle), reporter)?;
    let name = subject::name_of(&module, &args.subject)?;
    let kernel = subject::kernel(&module, &name, &args.sizes)?;
    let sizes = subject::sized(&module, args.lengths.keys.or(args.lengths.tokens), &args.sizes);
    let (n_q, n_k) = subject::lengths(&module, &args.lengths, &sizes)?;
    let (heads, _) = subject::heads(&kernel, args.heads, None)?;
    // The dimension matters to scales alone, and a mask has none.
    let shape = Shape { n_q, n_k, heads, dim: 64 };
    let mut data = Data::new(&sizes, n_q.max(n_k));
    if let Some(path) = &args.input {
        data.read(&mut TensorFile::open(path)?, &kernel.wants(shape, &subject::sizes_of(&data.sizes))?)?;
    }
    let format = match args.form {
        ExportAs::Flex => Format::Flex,
        ExportAs::Cudnn => Format::Cudnn,
        ExportAs::Flashmask => Format::Flashmask,
        ExportAs::Flashinfer => Format::Flashinfer,
        ExportAs::Splash => Format::Splash,
        ExportAs::Magi => Format::Magi,
        ExportAs::Csr => Format::Csr,
        ExportAs::Coo => Format::Coo,
    };
    let options = ExportOptions { format, block: args.block, mask_only: args.mask_only, most: args.most };
    let exported = kernel.export(shape, &data.inputs(), &options)?;
    let Some(path) = &args.output else {
        return files::print(&format!("{}\n", as_json(&name, format, &exported)));
    };
    let stored: Vec<_> = exported.arrays.iter().map(|array| (array, bytes(array))).collect();
    // Wider elements first, so that each array lies at a multiple of its element.
    let mut arrays: Vec<_> =
        stored.iter().map(|(a, (dtype, bytes))| (a.name, *dtype, a.shape.as_slice(), bytes.as_slice())).collect();
    arrays.sort_by_key(|(_, dtype, ..)| std::cmp::Reverse(dtype.bitsize()));
    let mut about: HashMap<String, String> =
        exported.numbers.iter().map(|(name, n)| ((*name).to_owned(), n.to_string())).collect();
    about.insert("schema".to_owned(), "attnc.export/1".to_owned());
    about.insert("format".to_owned(), format.name().to_owned());
    about.insert("pattern".to_owned(), name.clone());
    tensors::store(path, Some(about), &arrays)?;
    let list: Vec<String> = exported.arrays.iter().map(|a| format!("{} {:?}", a.name, a.shape)).collect();
    files::print(&format!("{name} as {}: {}\n", format.name(), list.join(", ")))
}

fn bytes(array: &Array) -> (Dtype, Vec<u8>) {
    match &array.values {
        Values::Bool(values) => (Dtype::BOOL, values.clone()),
        Values::I8(values) => (Dtype::I8, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Values::I32(values) => (Dtype::I32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Values::I64(values) => (Dtype::I64, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

fn as_json(name: &str, format: Format, exported: &Exported) -> Value {
    let numbers: Map<String, Value> = exported.numbers.iter().map(|(name, n)| ((*name).to_owned(), json!(n))).collect();
    let array = |array: &Array| {
        let (dtype, values) = match &array.values {
            Values::Bool(values) => ("bool", json!(values)),
            Values::I8(values) => ("i8", json!(values)),
            Values::I32(values) => ("i32", json!(values)),
            Values::I64(values) => ("i64", json!(values)),
        };
        (array.name.to_owned(), json!({ "dtype": dtype, "shape": array.shape, "values": values }))
    };
    json!({
        "schema": "attnc.export/1",
        "pattern": name,
        "format": format.name(),
        "numbers": numbers,
        "arrays": exported.arrays.iter().map(array).collect::<Map<String, Value>>(),
    })
}
