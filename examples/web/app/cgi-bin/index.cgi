#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
echo "database: $(wget -qO- http://database/rows)"
echo "asked by: $REMOTE_ADDR"
