# shellcheck shell=sh
# Where pynet is installed, and how the scripts beside this one refuse; they read it with `.`.
: "${PREFIX:=/usr/local}"
umask 022
case $PREFIX in
/*) ;;
*) echo "$verb: PREFIX has to be an absolute path, not $PREFIX" >&2; exit 2 ;;
esac
home=$PREFIX/lib/pynet
command=$PREFIX/bin/pynet
units=/etc/systemd/system
# Where settings of the unit say that it is, if they do.
state=$(systemctl show -P Environment pynet.service 2>/dev/null | tr ' ' '\n' | sed -n 's/^PYNET_STATE_DIR=//p')
: "${state:=/var/lib/pynet}"
manual=$PREFIX/share/man/man8/pynet.8
bash_completion=$PREFIX/share/bash-completion/completions/pynet
zsh_completion=$PREFIX/share/zsh/site-functions/_pynet
fish_completion=$PREFIX/share/fish/vendor_completions.d/pynet.fish

# refuse WORD…: ends the script.
refuse() {
    echo "$verb: $*" >&2
    exit 1
}

refuse_elsewhere() {
    [ "$(id -u)" = 0 ] || refuse "this needs root; run: sudo make $verb"
    [ -d /run/systemd/system ] ||
        refuse "systemd does not run here; without it use the managed plugin, or have something else run: pynet serve"
}
