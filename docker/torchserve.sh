#!/usr/bin/env bash
# Run TorchServe until it ends or is told to. Its launcher does not pass signals on, so that is done here.
torchserve --start --foreground --ncs --ts-config /etc/torchserve/config.properties \
  --log-config /etc/torchserve/log4j2.xml --model-store /home/model-store &
launcher=$!
trap 'torchserve --stop' TERM INT
wait "$launcher"
code=$?
trap - TERM INT
wait "$launcher" 2>/dev/null
exit "$code"
