"""Blocks of deleted files: looked for by grep, the file system judged by e2fsck."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from ovfbuild.vm import freespace, outside


def test_a_deleted_file_s_content_is_gone_and_a_kept_one_s_is_there(tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("mke2fs", "debugfs", "dumpe2fs", "e2fsck", "qemu-io", "qemu-img")
    tree, raw, image = tmp_path / "tree", tmp_path / "fs", tmp_path / "disk.qcow2"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/kept").write_text("a kept secret\n" * 999)
    (tree / "etc/gone").write_text("a gone secret\n" * 999)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, raw, "8M"], check=True)
    subprocess.run(["debugfs", "-w", "-R", "rm /etc/gone", raw], check=True, capture_output=True)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, image], check=True)
    root = outside.FileSystem(raw)
    assert freespace.erase(root, image, "qcow2") >= 999 * 14
    assert freespace.erase(root, image, "qcow2") == 0
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, tmp_path / "after"], check=True)
    for path in (raw, tmp_path / "after"):
        content = path.read_bytes()
        assert (content.count(b"a gone secret"), content.count(b"a kept secret")) == (0, 999)
        assert subprocess.run(["e2fsck", "-fn", path], capture_output=True).returncode == 0
