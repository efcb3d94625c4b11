#!/bin/sh
# Runs once, as root, while the appliance is built. It may be run again: each part says how
# things shall be, not what to change.
set -eu

# Debian's own page would stand before ours in nginx's list of index files.
rm -f /var/www/html/index.nginx-debian.html

# A configuration that nginx refuses shall fail the build, not the first boot.
nginx -t
systemctl enable nginx.service

cat >/etc/motd <<'EOF'
This is the appliance "hello", made with ovfbuild.
Its page: http://localhost/
EOF
