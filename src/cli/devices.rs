//! `fullrank devices`: the adapters of this machine, what they can do, and which one `auto` takes.

// A page is put together from formatted lines; `write!` to a string would add an error to ignore.
#![allow(clippy::format_push_string)]

use std::io::Write;

use serde::Serialize;

use super::text::{self, Table};
use crate::device::adapter::{Adapter, HOW_TO_GET_A_DRIVER, Kind};
use crate::error::Result;

/// An adapter as the table and the JSON show it.
#[derive(Debug, Serialize)]
struct Row {
    /// What `--device` takes.
    device: String,
    name: String,
    kind: &'static str,
    api: String,
    driver: String,
    max_binding_bytes: u64,
    workgroup_memory_bytes: u32,
    /// Smallest and largest.
    subgroup_sizes: [u32; 2],
    f16: bool,
    subgroups: bool,
    timestamps: bool,
    /// None: it can be used.
    unusable_because: Option<String>,
}

/// Everything that the command shows.
#[derive(Debug, Serialize)]
struct Found {
    /// What `--device auto` takes: an adapter, or `cpu`.
    auto: String,
    devices: Vec<Row>,
}

impl Found {
    fn on_this_machine() -> Self {
        let all = Adapter::all();
        let name = |number: usize| format!("gpu:{number}");
        Self {
            auto: Adapter::auto(&all).map_or_else(|| "cpu".into(), name),
            devices: all.iter().enumerate().map(|(i, adapter)| row(name(i), adapter)).collect(),
        }
    }

    fn text(&self) -> String {
        let mut table = Table::new(&[
            "",
            "device",
            "name",
            "kind",
            "api",
            "driver",
            ">one buffer",
            ">workgroup",
            ">subgroup",
            "f16",
            "subgroups",
            "timestamps",
            "usable",
        ]);
        for row in &self.devices {
            table.row(&cells(row, self.auto == row.device));
        }
        let mut lines =
            if self.devices.is_empty() { String::new() } else { table.render(0) + "\n" };
        lines += &match self.auto.as_str() {
            "cpu" => format!("--device auto takes the CPU: {}\n", self.why_not()),
            gpu => format!("--device auto takes {gpu} (*); --device cpu is always there\n"),
        };
        lines
    }

    /// Why `auto` takes the CPU, and what can be done.
    fn why_not(&self) -> String {
        let is_software = |row: &Row| row.kind == Kind::Software.name();
        match self.devices.iter().find(|row| !is_software(row)) {
            Some(row) => {
                let why = row.unusable_because.as_deref().unwrap_or("it cannot be used");
                format!("{} has {why}", row.device)
            }
            None if self.devices.is_empty() => {
                format!("no adapter was found; {HOW_TO_GET_A_DRIVER}")
            }
            None => {
                "no GPU was found, only a driver that computes on the CPU (--device software takes \
                     it, for trying out the kernels)"
                    .into()
            }
        }
    }
}

fn row(device: String, adapter: &Adapter) -> Row {
    Row {
        device,
        name: adapter.name.clone(),
        kind: adapter.kind.name(),
        api: adapter.api.clone(),
        driver: adapter.driver.clone(),
        max_binding_bytes: adapter.max_binding(),
        workgroup_memory_bytes: adapter.workgroup_memory(),
        subgroup_sizes: adapter.subgroup_sizes(),
        f16: adapter.has_f16(),
        subgroups: adapter.has_subgroups(),
        timestamps: adapter.has_timestamps(),
        unusable_because: adapter.unusable_because(),
    }
}

fn cells(row: &Row, is_auto: bool) -> Vec<String> {
    let yes = |has: bool| if has { "yes".to_owned() } else { "no".into() };
    let [smallest, largest] = row.subgroup_sizes;
    vec![
        if is_auto { "*".into() } else { String::new() },
        row.device.clone(),
        row.name.clone(),
        row.kind.into(),
        row.api.clone(),
        row.driver.clone(),
        text::bytes(row.max_binding_bytes),
        text::bytes(row.workgroup_memory_bytes.into()),
        if smallest == largest { smallest.to_string() } else { format!("{smallest}-{largest}") },
        yes(row.f16),
        yes(row.subgroups),
        yes(row.timestamps),
        match &row.unusable_because {
            Some(why) => format!("no: {why}"),
            // `auto` never takes it: the CPU backend is faster.
            None if row.kind == Kind::Software.name() => "if asked".into(),
            None => "yes".into(),
        },
    ]
}

/// Prints the adapters as a table, or with `is_json` as one object. No adapter is no failure.
///
/// Errors: `Error::Io` if the output refuses.
pub fn devices(is_json: bool, stdout: &mut dyn Write) -> Result<()> {
    let found = Found::on_this_machine();
    if is_json { text::print_json(stdout, &found) } else { text::print(stdout, &found.text()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(device: &str, kind: Kind) -> Row {
        Row {
            device: device.into(),
            name: "Some GPU".into(),
            kind: kind.name(),
            api: "vulkan".into(),
            driver: "driver 1.2".into(),
            max_binding_bytes: 1 << 31,
            workgroup_memory_bytes: 49_152,
            subgroup_sizes: [32, 32],
            f16: true,
            subgroups: true,
            timestamps: false,
            unusable_because: None,
        }
    }

    #[test]
    fn the_table_marks_what_auto_takes() {
        let devices = vec![gpu("gpu:0", Kind::Discrete), gpu("gpu:1", Kind::Software)];
        let found = Found { auto: "gpu:0".into(), devices };
        let expected = [
            "   device  name      kind      api     driver      one buffer  workgroup  subgroup  f16  subgroups  timestamps  usable",
            "*  gpu:0   Some GPU  discrete  vulkan  driver 1.2     2.0 GiB   48.0 KiB        32  yes  yes        no          yes",
            "   gpu:1   Some GPU  software  vulkan  driver 1.2     2.0 GiB   48.0 KiB        32  yes  yes        no          if asked",
            "",
            "--device auto takes gpu:0 (*); --device cpu is always there",
            "",
        ]
        .join("\n");
        assert_eq!(found.text(), expected);
    }

    #[test]
    fn without_a_gpu_it_says_why_and_how_to_get_one() {
        let none = Found { auto: "cpu".into(), devices: Vec::new() };
        assert!(
            none.text().starts_with("--device auto takes the CPU: no adapter was found; install")
        );
        let software = Found { auto: "cpu".into(), devices: vec![gpu("gpu:0", Kind::Software)] };
        assert!(software.text().contains("only a driver that computes on the CPU"));
        let mut old = gpu("gpu:0", Kind::Integrated);
        old.unusable_because = Some("4 storage buffers in a kernel, needs 8".into());
        let old = Found { auto: "cpu".into(), devices: vec![old] };
        assert!(
            old.text().ends_with("the CPU: gpu:0 has 4 storage buffers in a kernel, needs 8\n")
        );
    }
}
