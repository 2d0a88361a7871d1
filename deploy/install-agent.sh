#!/bin/sh
# Installs the agent on a bare board: account, environment, unit, configuration. Run it again to upgrade.
set -eu

usage() {
  cat <<'HELP'
usage: install-agent.sh [OPTIONS]

Installs the driftpost agent as a systemd service, or upgrades it in place. Everything it does can be repeated;
configuration and data that exist are left as they are.

  --package SPEC      what pip installs: a name with extras, or a wheel  [driftpost[onnx]]
  --constraint FILE   pip's constraints, for versions that were tried together
  --bundle FILE       bundle to guard, copied to /etc/driftpost/model.bundle
  --key FILE          public key to trust, copied to /etc/driftpost/
  --device NAME       name of this device in a new agent.toml           [the host's name]
  --broker HOST       host of the MQTT broker in a new agent.toml       [127.0.0.1]
  --python COMMAND    Python of the environment, 3.10 or newer          [python3]
  --no-start          do not enable or start the service
  --uninstall         remove service and environment; configuration, data and account stay
  --purge             with --uninstall: remove these, too
  --root DIR          install below DIR instead of /, and leave the running system alone (for images)
  --dry-run           say what would be done, and do none of it
  -h, --help          this text

Exit status: 0 done, 1 something failed (what stands then can be repeated), 2 wrong options.
HELP
}

# Where things go; the unit names the first three.
prefix=/opt/driftpost
etc=/etc/driftpost
data=/var/lib/driftpost
unit=/etc/systemd/system/driftpost-agent.service
sysusers=/usr/lib/sysusers.d/driftpost.conf
service=driftpost-agent
account=driftpost

package='driftpost[onnx]' constraint='' bundle='' key='' device='' broker=127.0.0.1 python=python3
root='' start=yes action=install purge=no dry=no
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)

fail() {
  echo "install-agent: $1" >&2
  exit "${2:-1}"
}

while [ $# -gt 0 ]; do
  case $1 in
    --package | --constraint | --bundle | --key | --device | --broker | --python | --root)
      [ $# -ge 2 ] || fail "$1 needs a value; see --help" 2
      case $1 in
        --package) package=$2 ;;
        --constraint) constraint=$2 ;;
        --bundle) bundle=$2 ;;
        --key) key=$2 ;;
        --device) device=$2 ;;
        --broker) broker=$2 ;;
        --python) python=$2 ;;
        --root) root=$2 ;;
      esac
      shift 2
      ;;
    --no-start) start=no; shift ;;
    --uninstall) action=uninstall; shift ;;
    --purge) purge=yes; shift ;;
    --dry-run) dry=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) fail "there is no option $1; see --help" 2 ;;
  esac
done
[ $purge = no ] || [ $action = uninstall ] || fail "--purge goes with --uninstall" 2
case $root in
  '' | /) root='' ;;
  /*) root=${root%/} ;;
  *) fail "--root needs a path from /, not $root" 2 ;;
esac
for file in "$constraint" "$bundle" "$key"; do
  [ -z "$file" ] || [ -r "$file" ] || fail "there is no file $file" 2
done
case $device in
  *[!A-Za-z0-9._-]* | [!A-Za-z0-9]*) fail "a device's name has letters, digits, '.', '_' and '-': $device" 2 ;;
esac

run() {
  if [ $dry = yes ]; then
    echo "would run: $*"
  else
    "$@"
  fi
}

say() { echo "install-agent: $*"; }

# Below a root nothing of the running system is touched: its accounts, its services.
live() { [ -z "$root" ]; }

put() { # MODE SOURCE TARGET: whole or not at all, so that a power cut leaves the old file or the new one
  if cmp -s "$2" "$root$3" 2>/dev/null; then
    return 0
  fi
  say "$3"
  run install -D -m "$1" "$2" "$root$3.new"
  run mv -f "$root$3.new" "$root$3"
}

group_of() { # GROUP FILE...: where the account is known
  owner=$1
  shift
  if live && { [ $dry = yes ] || getent group "$account" >/dev/null; }; then
    run chgrp "$owner" "$@"
  fi
}

uninstall() {
  if live && command -v systemctl >/dev/null; then
    if systemctl cat "$service" >/dev/null 2>&1; then
      run systemctl disable --now "$service" || say "the service could not be stopped"
    fi
  fi
  for path in "$unit" "$unit.new" "$sysusers" "$sysusers.new"; do
    [ ! -e "$root$path" ] || { say "remove $path"; run rm -f "$root$path"; }
  done
  for path in "$prefix" "$prefix.old" "$prefix.new"; do
    [ ! -d "$root$path" ] || { say "remove $path"; run rm -rf "$root$path"; }
  done
  if live && command -v systemctl >/dev/null; then
    run systemctl daemon-reload || true
  fi
  if [ $purge = no ]; then
    say "configuration in $etc and data in $data are kept; --purge removes them"
    return 0
  fi
  for path in "$etc" "$data"; do
    [ ! -e "$root$path" ] || { say "remove $path"; run rm -rf "$root$path"; }
  done
  if live && getent passwd "$account" >/dev/null; then
    say "remove the account $account"
    run userdel "$account" || say "the account could not be removed"
  fi
}

make_account() {
  live || return 0
  if getent passwd "$account" >/dev/null; then
    return 0
  fi
  say "make the account $account"
  if command -v systemd-sysusers >/dev/null; then
    run systemd-sysusers "$sysusers"
  else
    run useradd --system --home-dir "$data" --no-create-home --shell /usr/sbin/nologin "$account"
  fi
}

make_environment() {
  command -v "$python" >/dev/null || fail "there is no $python; on Debian: apt-get install python3 python3-venv"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$python is older than 3.10: $("$python" -V); give another with --python"
  # A new environment is made beside the old one and takes its place when it is whole: an upgrade that fails, or a
  # power cut in it, leaves the agent that ran.
  old=$root$prefix.old new=$root$prefix.new
  if [ -d "$old" ] && [ ! -d "$root$prefix" ]; then
    say "an upgrade before this one was cut off; its predecessor is put back"
    run mv "$old" "$root$prefix"
  fi
  run rm -rf "$old" "$new"
  if [ -d "$root$prefix" ]; then
    run cp -a "$root$prefix" "$new"
  fi
  say "environment in $prefix: $package"
  if ! install_environment; then
    run rm -rf "$new"
    [ ! -d "$root$prefix" ] || fail "the package could not be installed; the environment before is as it was"
    fail "the package could not be installed"
  fi
  # Its content reaches the disk before its name does.
  run sync
  if [ -d "$root$prefix" ]; then
    run mv "$root$prefix" "$old"
  fi
  run mv "$new" "$root$prefix"
  run rm -rf "$old"
}

install_environment() {
  [ -x "$new/bin/python" ] || run "$python" -m venv "$new" || return 1
  set -- "$new/bin/python" -m pip --disable-pip-version-check install --quiet --upgrade
  [ -z "$constraint" ] || set -- "$@" --constraint "$constraint"
  run "$@" "$package" || return 1
  [ $dry = no ] || return 0
  # It must start before it takes over: a wheel for another processor shows here.
  "$new/bin/python" -m driftpost agent settings >/dev/null || return 1
  # Scripts name the place they were made in: in their first line, or behind it where that would be too long.
  made=$(printf '%s\n' "$new" | sed 's/[][\\.*^$|]/\\&/g')
  find "$new/bin" -type f -exec grep -qIF -e "$new" {} \; -exec sed -i "s|$made|$prefix|g" {} +
}

make_configuration() {
  run install -d -m 0750 "$root$etc"
  group_of "$account" "$root$etc"
  if [ -n "$bundle" ]; then
    put 0640 "$bundle" "$etc/model.bundle"
    group_of "$account" "$root$etc/model.bundle"
  fi
  trusted=''
  if [ -n "$key" ]; then
    trusted=$etc/$(basename "$key")
    put 0640 "$key" "$trusted"
    group_of "$account" "$root$trusted"
  fi
  if [ -e "$root$etc/agent.toml" ]; then
    say "$etc/agent.toml is left as it is"
    return 0
  fi
  say "$etc/agent.toml"
  if [ $dry = yes ]; then
    echo "would run: driftpost agent init $etc/agent.toml"
    return 0
  fi
  set -- --bundle "$etc/model.bundle" --broker "$broker"
  [ -z "$device" ] || set -- "$@" --id "$device"
  [ -z "$trusted" ] || set -- "$@" --key "$trusted"
  # The starter file keeps its state beside itself; the unit lets the agent write nowhere but here.
  umask 027
  rm -f "$root$etc/agent.toml.new"
  "$root$prefix/bin/python" -m driftpost agent init "$root$etc/agent.toml.new" "$@" >/dev/null
  sed -i "s|^path = \"state/agent.db\"|path = \"$data/agent/agent.db\"|" "$root$etc/agent.toml.new"
  chmod 0640 "$root$etc/agent.toml.new"
  group_of "$account" "$root$etc/agent.toml.new"
  mv "$root$etc/agent.toml.new" "$root$etc/agent.toml"
}

start_service() {
  live || { say "nothing is started below $root"; return 0; }
  if ! command -v systemctl >/dev/null; then
    say "there is no systemd here: start $prefix/bin/driftpost agent run yourself"
    return 0
  fi
  run systemctl daemon-reload
  if [ $start = no ]; then
    say "start it with: systemctl enable --now $service"
    return 0
  fi
  if [ ! -e "$etc/model.bundle" ] && grep -q "bundle = \"$etc/model.bundle\"" "$etc/agent.toml" 2>/dev/null; then
    say "there is no bundle yet: put it at $etc/model.bundle, then systemctl enable --now $service"
    return 0
  fi
  run systemctl enable "$service"
  run systemctl restart "$service"
}

if live && [ $dry = no ] && [ "$(id -u)" != 0 ]; then
  fail "this needs root: sudo $0"
fi
if [ $action = uninstall ]; then
  uninstall
  say "uninstalled"
  exit 0
fi
for file in systemd/driftpost-agent.service systemd/driftpost.sysusers; do
  [ -r "$here/$file" ] || fail "$file is missing beside this script; run it from an unpacked release"
done
put 0644 "$here/systemd/driftpost.sysusers" "$sysusers"
make_account
make_environment
put 0644 "$here/systemd/driftpost-agent.service" "$unit"
make_configuration
run install -d -m 0750 "$root$data"
if live && { [ $dry = yes ] || getent passwd "$account" >/dev/null; }; then
  run chown "$account:$account" "$root$data"
fi
start_service
say "done; look at it with: $prefix/bin/driftpost agent doctor --config $etc/agent.toml"
