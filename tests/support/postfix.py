"""A real Postfix that accepts mail for a domain and stores it in a maildir."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.process import Daemon, listens, need, need_root, until

_MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = {hostname}
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks =
alias_maps =
alias_database =
smtpd_relay_restrictions = reject_unauth_destination
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
smtpd_recipient_restrictions = check_recipient_access texthash:{folder}/conf/access, permit
smtputf8_enable = yes
smtpd_tls_security_level = {tls}
smtpd_tls_chain_files = {chain}
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
smtpd_peername_lookup = no
"""

_MASTER = """
{address}:{port} inet  n       -       n       -       -       smtpd
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
"""


class Postfix:
    """A running Postfix and what it stored."""

    def __init__(self, folder: Path, address: str, port: int) -> None:
        self.folder, self.address, self.port = folder, address, port

    def stored(self) -> list[bytes]:
        """Every message it accepted and stored, as it is in the maildir (LF line ends), in order of arrival."""
        new = self.folder / "mail" / "all" / "new"
        return [path.read_bytes() for path in sorted(new.glob("*"))] if new.is_dir() else []

    def log(self) -> str:
        """Its log."""
        return (self.folder / "mail.log").read_text(errors="replace")


@contextmanager
def postfix(
    folder: Path, *, address: str, domain: str, hostname: str, port: int = 25, chain: Path | None = None
) -> Iterator[Postfix]:
    """Run a Postfix that is the final destination of ``domain`` until the block ends."""
    need("postfix")
    need_root()
    _open_for_daemons(folder)
    for name in ("conf", "queue", "data", "mail"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    owner = pwd.getpwnam("nobody")
    for name, user in (("data", "postfix"), ("mail", "nobody")):
        shutil.chown(folder / name, user)
    (folder / "conf" / "main.cf").write_text(
        _MAIN.format(
            folder=folder,
            hostname=hostname,
            address=address,
            domain=domain,
            uid=owner.pw_uid,
            gid=owner.pw_gid,
            tls="may" if chain else "none",
            chain=chain or "",
        )
    )
    (folder / "conf" / "access").write_text(
        f"refused@{domain} 550 5.1.1 no such person\ndeferred@{domain} 450 4.2.1 try again later\n"
    )
    (folder / "conf" / "master.cf").write_text(_MASTER.format(address=address, port=port))
    command = ["postfix", "-c", str(folder / "conf")]
    subprocess.run([*command, "check"], check=True, capture_output=True)
    daemon = Daemon([*command, "start-fg"], folder / "postfix.out")
    try:
        until(lambda: listens(address, port), f"Postfix listens on {address}:{port}\n{daemon.tail()}")
        yield Postfix(folder, address, port)
    finally:
        subprocess.run([*command, "stop"], check=False, capture_output=True)
        daemon.stop()


def _open_for_daemons(folder: Path) -> None:
    """Let the daemons, which drop root, pass through the test's own folders."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for parent in folder.parents:
        if parent.stat().st_mode & 0o777 == 0o700:
            parent.chmod(0o711)
