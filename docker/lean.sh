#!/bin/sh -e
# lean: take out of /opt/python what nothing needs at run time: what builds and installs, and the packages' own tests.
/opt/python/bin/pip uninstall --quiet --yes hatchling editables pathspec pluggy tomlkit trove-classifiers
/opt/python/bin/pip uninstall --quiet --yes setuptools pip
find /opt/python/lib -type d -name tests -prune -exec rm -r {} +
