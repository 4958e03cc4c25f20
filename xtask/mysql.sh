#!/usr/bin/env bash
# Unpacks MySQL from Debian's unstable suite into a directory, for tests; nothing is installed. Its program runs with the
# loader and the libraries that it was built for. Usage: mysql.sh DIRECTORY PROGRAM
set -euo pipefail
dir=$1 program=$2
sources=/etc/apt/sources.list.d/debian.sources
[ -e "$sources" ] || { echo "MySQL is unpacked from Debian's packages, and this is no Debian: put a mysqld (8.0.17 or later) at $program" >&2; exit 1; }
rm -rf "$dir"
mkdir -p "$dir"/apt/lists/partial "$dir"/apt/cache/archives/partial "$dir"/packages "$dir"/root
mirror=$(awk '/^URIs/ { print $2; exit }' "$sources")
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" > "$dir/apt/sources.list"
cat > "$dir/apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$dir/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$dir/apt/lists";
Dir::Cache "$dir/apt/cache";
APT::Sandbox::User "root";
CONF
export APT_CONFIG=$dir/apt/apt.conf
apt-get update -qq
only=(--recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances)
packages=$(apt-cache depends "${only[@]}" mysql-server-core | grep -E '^[a-z0-9]' | sort -u | grep -vE '^(perl|libperl|libgdbm|libdb5)')
# Virtual packages cannot be downloaded; what is really missing shows when the program is started.
(cd "$dir/packages" && for package in $packages; do apt-cache show "$package" > /dev/null 2>&1 && echo "$package"; done | xargs apt-get download -qq)
for package in "$dir"/packages/*.deb; do dpkg-deb -x "$package" "$dir/root"; done
rm -rf "$dir/packages" "$dir/apt"
root=$dir/root
mkdir -p "$(dirname "$program")"
cat > "$program" <<RUN
#!/bin/sh
exec $root/usr/lib64/ld-linux-x86-64.so.2 --library-path $root/usr/lib/x86_64-linux-gnu $root/usr/sbin/mysqld --no-defaults --user=root --basedir=$root/usr \\
  --lc-messages-dir=$root/usr/share/mysql --plugin-dir=$root/usr/lib/mysql/plugin --secure-file-priv=NULL "\$@"
RUN
chmod +x "$program"
"$program" --version
