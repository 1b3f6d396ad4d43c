#!/bin/sh -e
# bare: leave of a Debian with Python what runs Python programs. What goes is what installs, what people read, perl, and
# whatever a base image of one's own brought along beside the usual folders.
find / -mindepth 1 -maxdepth 1 ! -name bin ! -name boot ! -name dev ! -name etc ! -name home ! -name 'lib*' ! -name media \
  ! -name mnt ! -name opt ! -name proc ! -name root ! -name run ! -name sbin ! -name srv ! -name sys ! -name tmp \
  ! -name usr ! -name var -exec rm -r {} +
rm -rf /var/lib/apt/* /var/cache/* /var/log/* /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale \
  /usr/share/lintian /usr/share/perl* /usr/share/python-wheels /usr/lib/*/gconv /usr/lib/*/perl* /usr/bin/*perl* \
  /usr/bin/pip* /usr/local/bin/pip* /etc/pip.conf
for name in ensurepip idlelib lib2to3 turtledemo tkinter test 'pip' 'pip-*' setuptools 'setuptools-*' pkg_resources wheel 'wheel-*'; do
  find /usr/lib/python3* /usr/local/lib/python3* -type d -name "$name" -prune -exec rm -r {} + 2>/dev/null || true
done
