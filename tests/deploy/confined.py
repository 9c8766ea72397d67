"""What an OCI runtime does before a program begins, by hand: as ``docker run`` would with everything taken away.

    unshare --mount --pid --ipc --uts --cgroup --fork --kill-child python confined.py RULES ROOT COMMAND...
    nsenter --target PID --mount --pid --ipc --uts --cgroup python confined.py --beside RULES ROOT COMMAND...

A root that is read-only, a tmpfs where something may be written, /proc, /dev/null and what is random; nobody; no capability,
none to be had again; no new privileges; few descriptors; and the system calls refused that Docker's default profile refuses.
The second form runs a command beside one that runs already, as ``docker exec`` and its health check do. ``RULES`` is JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

# "Seccomp security profiles for Docker" names these as refused by default; of the last four its text for newer versions speaks.
REFUSED = (
    "acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module", "finit_module",
    "get_kernel_syms", "get_mempolicy", "init_module", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl",
    "lookup_dcookie", "mbind", "mount", "move_pages", "nfsservctl", "open_by_handle_at", "perf_event_open", "pivot_root",
    "process_vm_readv", "process_vm_writev", "ptrace", "query_module", "quotactl", "reboot", "request_key", "set_mempolicy",
    "setns", "settimeofday", "swapon", "swapoff", "sysfs", "_sysctl", "umount", "umount2", "unshare", "uselib", "userfaultfd",
    "ustat", "vm86", "vm86old", "io_uring_setup", "io_uring_enter", "io_uring_register", "clone3",
)  # fmt: skip
ALLOW, REFUSE, ABSENT = 0x7FFF0000, 0x00050001, 0x00050026  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM) and (ENOSYS), <seccomp.h>
NO_NEW_PRIVS, DROP_BOUNDING = 38, 24  # <linux/prctl.h>
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str | Path, target: Path, *options: str) -> None:
    subprocess.run(["mount", *options, str(source), str(target)], check=True)


def lay_out(root: Path, rules: dict[str, str]) -> None:
    mount(root, root, "--bind")
    mount("proc", root / "proc", "-t", "proc")
    mount("tmpfs", root / "dev", "-t", "tmpfs")
    for name in ("null", "urandom", "random"):
        (root / "dev" / name).touch()
        mount(f"/dev/{name}", root / "dev" / name, "--bind")
    mount("tmpfs", root / "tmp", "-t", "tmpfs", "-o", f"nosuid,nodev,mode=1777,{rules['tmp']}")
    mount("tmpfs", root / "var/lib/fastgw", "-t", "tmpfs", "-o", f"nosuid,nodev,noexec,mode=700,uid={rules['user']}")
    mount(rules["config"], root / "etc/fastgw", "--bind")
    mount(rules["config"], root / "etc/fastgw", "-o", "remount,bind,ro")
    mount(root, root, "-o", "remount,bind,ro,nosuid,nodev")


def refuse_calls(seccomp: ctypes.CDLL) -> None:
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ALLOW))
    for name in REFUSED:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            # (A C library that is refused clone3 as if there were none takes clone, which Docker can look into.)
            action = ABSENT if name == "clone3" else REFUSE
            assert seccomp.seccomp_rule_add(context, action, number, 0) == 0, name
    assert seccomp.seccomp_load(context) == 0


def main(argv: list[str]) -> None:
    beside = argv[0] == "--beside"
    told, place, *command = argv[beside:]
    rules, root = json.loads(told), Path(place)
    seccomp = ctypes.CDLL("libseccomp.so.2")
    if not beside:
        lay_out(root, rules)
    # chroot does not move who goes into a mount that came later: by its name again.
    os.chroot(root)
    os.chdir("/var/lib/fastgw")
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(rules["files"]),) * 2)
    for capability in range(64):
        LIBC.prctl(DROP_BOUNDING, capability, 0, 0, 0)
    user = int(rules["user"])
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    assert LIBC.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    refuse_calls(seccomp)
    os.execve(command[0], command, json.loads(rules["env"]))


if __name__ == "__main__":
    main(sys.argv[1:])
