# Runs a container's program in a root folder of its own, inside the network namespace that it is started in: container.sh ROOT SPEC PROGRAM ARGS…
# ROOT is an empty folder. SPEC is a file of lines "bind HOST_PATH CONTAINER_PATH", "folder CONTAINER_PATH", "writable" and "capable".
# The host's system folders are the image's; all else is what SPEC mounts. It ends when whoever started it does.
set -eu
root=$1 spec=$2
shift 2
mount -t tmpfs -o mode=755 container "$root"
for name in bin sbin lib lib32 lib64 usr etc proc dev sys; do
  if [ -L "/$name" ]; then
    cp -P "/$name" "$root/$name"
  elif [ -d "/$name" ]; then
    mkdir "$root/$name"
    mount --rbind "/$name" "$root/$name"
  fi
done
mkdir "$root/run" "$root/tmp" "$root/var"
ln -s /run "$root/var/run"
writable=no capabilities='--no-new-privs --bounding-set -all --inh-caps -all'
while read -r kind from to; do
  case $kind in
  bind)
    if [ -d "$from" ]; then
      mkdir -p "$root$to"
    else
      mkdir -p "$(dirname "$root$to")"
      touch "$root$to"
    fi
    mount --bind "$from" "$root$to"
    ;;
  folder) mkdir -p "$root$from" ;;
  writable) writable=yes ;;
  capable) capabilities= ;;
  esac
done <"$spec"
[ "$writable" = yes ] || mount -o remount,ro,bind "$root"
cd /
# shellcheck disable=SC2086 # words
exec chroot "$root" setpriv --pdeathsig KILL $capabilities "$@"
