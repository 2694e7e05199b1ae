//! Commands in a directory of their own, and the files that they are given.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A command that takes longer hangs; those of the sessions take a second at most on an idle machine.
const PATIENCE: Duration = Duration::from_secs(100);

/// What a command may take, in MiB.
#[derive(Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Memory that it may map, where the system can tell.
    pub(crate) memory: Option<u64>,
    /// What each thread takes for its stack.
    pub(crate) stacks: Option<u64>,
}

impl Limits {
    /// Reads `memory MIB` and `stacks MIB`; false for anything else.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        let (limit, mib) = match line.split_once(' ') {
            Some(("memory", mib)) => (&mut self.memory, mib),
            Some(("stacks", mib)) => (&mut self.stacks, mib),
            _ => return false,
        };
        *limit = Some(mib.parse().expect("a number of MiB"));
        true
    }
}

/// Runs `attnc` in a directory, with this on its standard input.
pub(crate) fn run(args: &[&str], input: &str, limits: Limits, dir: &Path) -> Output {
    let attnc = env!("CARGO_BIN_EXE_attnc");
    let mut command = match limits.memory {
        Some(mib) if cfg!(target_os = "linux") => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -v {}; exec \"$0\" \"$@\"", mib << 10), attnc]);
            shell
        }
        _ => Command::new(attnc),
    };
    command.args(args).current_dir(dir).env("NO_COLOR", "1");
    // Mesa's software Vulkan asks for it on standard error.
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR"));
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    if let Some(mib) = limits.stacks {
        command.env("RUST_MIN_STACK", (mib << 20).to_string());
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("attnc runs");
    // A command that does not read its input has gone before this is written.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    end(child)
}

pub(crate) fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}

/// Makes a file as a `%` line says.
pub(crate) fn prepare(dir: &Path, line: &str) {
    let (word, rest) = line.split_once(' ').expect("% WORD FILE ..");
    let (file, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let path = dir.join(file);
    match word {
        "dir" => fs::create_dir_all(path).expect("a directory"),
        "zeros" => fs::File::create(path).and_then(|f| f.set_len(rest.parse().expect("a size"))).expect("a file"),
        "repeat" => {
            let (count, unit) = rest.split_once(' ').expect("% repeat FILE N UNIT");
            let unit = unit.replace("\\n", "\n");
            let count: usize = count.parse().expect("a count");
            append(&path, &(0..count).map(|i| unit.replace('#', &i.to_string())).collect::<String>());
        }
        "chain" => {
            for i in 0..rest.parse().expect("a count") {
                let text = format!("import p from \"{file}{}.attn\"\n", i + 1);
                fs::write(dir.join(format!("{file}{i}.attn")), text).expect("written");
            }
        }
        "bytes" => {
            let digits = |i: usize| u8::from_str_radix(&rest[2 * i..2 * i + 2], 16).expect("two digits");
            let bytes: Vec<u8> = (0..rest.len() / 2).map(digits).collect();
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&path).expect("a file");
            file.write_all(&bytes).expect("written");
        }
        "header" => {
            let mut words = rest.splitn(3, ' ');
            let mut next = || words.next().expect("% header FILE LENGTH BYTES JSON");
            let (length, data, json) = (next(), next().parse().expect("a count"), next());
            let length: u64 = if length == "-" { json.len() as u64 } else { length.parse().expect("a length") };
            fs::write(path, [&length.to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat()).expect("written");
        }
        "append" => append(&path, &rest.replace("\\n", "\n")),
        "cut" => {
            let bytes = fs::read(&path).expect("a file");
            fs::write(path, &bytes[..rest.parse().expect("a size")]).expect("written");
        }
        "tensors" => fs::write(path, tensors(rest)).expect("written"),
        _ => panic!("no such preparation: {line}"),
    }
}

/// A safetensors file; elements are small multiples of 1/8.
fn tensors(line: &str) -> Vec<u8> {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for tensor in line.split_whitespace() {
        let (name, rest) = tensor.split_once('=').expect("NAME=TYPE[..]");
        // As they are given.
        if let Some((_, list)) = rest.strip_suffix(')').and_then(|rest| rest.split_once("i64(")) {
            let values: Vec<i64> = list.split(',').map(|n| n.parse().expect("an integer")).collect();
            let (begin, count) = (data.len(), values.len());
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let offsets = format!("[{begin},{}]", data.len());
            header.push(format!("\"{name}\":{{\"dtype\":\"I64\",\"shape\":[{count}],\"data_offsets\":{offsets}}}"));
            continue;
        }
        let (kind, shape) = rest.trim_end_matches(']').split_once('[').expect("TYPE[..]");
        let extents: Vec<usize> = shape.split(',').map(|n| n.parse().expect("an extent")).collect();
        let begin = data.len();
        for i in 0..extents.iter().product::<usize>() {
            let value = (i * 7 % 19) as f32 / 8.0 - 1.0;
            match kind {
                "f32" => data.extend(value.to_le_bytes()),
                "f16" => data.extend(half::f16::from_f32(value).to_le_bytes()),
                "bf16" => data.extend(half::bf16::from_f32(value).to_le_bytes()),
                "i64" => data.extend((i as i64).to_le_bytes()),
                "i32" => data.extend((i as i32).to_le_bytes()),
                "u8" => data.push(u8::from(i % 3 != 1)),
                _ => panic!("no such type: {kind}"),
            }
        }
        header.push(format!(
            "\"{name}\":{{\"dtype\":\"{}\",\"shape\":[{shape}],\"data_offsets\":[{begin},{}]}}",
            kind.to_uppercase(),
            data.len()
        ));
    }
    let header = format!("{{{}}}", header.join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// What a command wrote; one that hangs is killed, and so ends without a code.
fn end(mut child: Child) -> Output {
    fn read(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("a pipe is read");
            bytes
        })
    }
    let out = read(child.stdout.take().expect("a pipe"));
    let err = read(child.stderr.take().expect("a pipe"));
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("attnc ends") {
            break status;
        }
        if begin.elapsed() > PATIENCE {
            child.kill().expect("attnc ends");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Output { status, stdout: out.join().expect("no panic"), stderr: err.join().expect("no panic") }
}
