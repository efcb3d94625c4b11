"""An ext4 file system in a plain, sparse file, made by mke2fs: not mounted, without root, the same bytes every time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ovfbuild.vm.process import run

MKE2FS_CONF = """\
[defaults]
    base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
    default_mntopts = acl,user_xattr
    enable_periodic_fsck = 0
    blocksize = 4096
    inode_size = 256
    inode_ratio = 16384
[fs_types]
    ext4 = {
        features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
    }
"""
"""The host's own may ask for features that the guest's GRUB cannot read (metadata_csum_seed, orphan_file)."""
EAGER = "lazy_itable_init=0,lazy_journal_init=0"
"""Not lazy: otherwise the first boot of every appliance writes the rest of the inode tables."""


def make_file_system(raw: Path, uuid: str, label: str, epoch: int) -> None:
    """Makes it over the whole of `raw`, empty but for lost+found; `epoch` is when, in seconds since 1970.

    No block is kept for root: what runs as root does not fill this disk.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".conf", dir=raw.parent) as config:
        config.write(MKE2FS_CONF)
        config.flush()
        argv = [
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-U",
            uuid,
            "-E",
            f"hash_seed={uuid},root_owner=0:0,{EAGER}",
        ]
        clock = {"E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch)}
        run([*argv, "-L", label, raw.absolute()], env={"MKE2FS_CONFIG": config.name, **clock})
