#!/bin/sh
# Installs the C library, its header, and files for pkg-config and CMake.
#
#     cargo build --release -p attnc-c
#     crates/attnc-c/install.sh PREFIX [DIRECTORY OF THE BUILT LIBRARIES]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=${1:?"usage: install.sh PREFIX [DIRECTORY]"}
built=${2:-$here/../../target/release}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml")

mkdir -p "$prefix/include" "$prefix/lib/pkgconfig" "$prefix/lib/cmake/attnc"
prefix=$(cd "$prefix" && pwd)
cp "$here/include/attnc.h" "$prefix/include/"
found=
for library in libattnc_c.a libattnc_c.so libattnc_c.dylib; do
  if [ -f "$built/$library" ]; then
    cp "$built/$library" "$prefix/lib/"
    found=yes
  fi
done
[ -n "$found" ] || { echo "$built: no libattnc_c, build it with: cargo build --release -p attnc-c" >&2; exit 1; }
sed "s|@PREFIX@|$prefix|; s|@VERSION@|$version|" "$here/attnc.pc.in" >"$prefix/lib/pkgconfig/attnc.pc"
cp "$here/attnc-config.cmake" "$prefix/lib/cmake/attnc/"
