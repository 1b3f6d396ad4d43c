#!/usr/bin/env bash
# healthy PORT PATH [TEXT]: exit code 0 if http://127.0.0.1:PORT/PATH answers 200, and TEXT is in the answer.
# Bash alone, because a check that starts Python or curl every few seconds costs more than what it checks.
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$2" >&3
read -r -t 4 _ status _ <&3
answer=$(timeout 4 cat <&3)
[[ $status == 200 && $answer == *"${3-}"* ]]
