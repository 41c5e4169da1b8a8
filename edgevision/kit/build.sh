#!/bin/sh
# Builds this kit's engine on the device and measures it, with what JetPack brings: see README.txt.
#
#     sh build.sh
#
# TRTEXEC=/path/to/trtexec names another trtexec; KIT_ROOT stands before /proc, /sys, /etc and /var
# where they are mounted elsewhere. Stopped or killed, it carries on when it is run again.
set -u
umask 022
unset CDPATH
LC_ALL=C
export LC_ALL

say() { printf '%s\n' "$*"; }
die() {
    printf 'build.sh: %s\n' "$*" >&2
    exit 1
}

cd "$(dirname -- "$0")" || exit 1
root=${KIT_ROOT:-}

# --- What is here ---------------------------------------------------------------------------------

for tool in sha256sum flock tar gzip grep sed tail head find date cmp; do
    command -v "$tool" >/dev/null 2>&1 || die "the program '$tool' is missing on this device"
done
for file in SHA256SUMS kit.json options.txt; do
    [ -f "$file" ] || die "the file '$file' is missing: copy the whole kit again"
done
wrong=$(sha256sum -c SHA256SUMS 2>/dev/null | grep -v ': OK$' | head -n 1)
[ -z "$wrong" ] || die "the kit is damaged ($wrong): copy it again"
grep -q ' options\.txt$' SHA256SUMS || die "SHA256SUMS is cut short: copy the kit again"

trtexec=${TRTEXEC:-}
if [ -z "$trtexec" ]; then
    trtexec=/usr/src/tensorrt/bin/trtexec
    [ -x "$trtexec" ] || trtexec=$(command -v trtexec) ||
        die "there is no trtexec in /usr/src/tensorrt/bin nor on PATH: sudo apt install tensorrt"
fi
[ -x "$trtexec" ] || die "'$trtexec' cannot be run"

mkdir -p work || die "the folder cannot be written"
exec 9>work/lock || die "the folder cannot be written"
flock -n 9 || die "the engine is being built here already, or trtexec of a killed run is still at it"

# --- What this trtexec takes ----------------------------------------------------------------------

"$trtexec" --help >work/help.txt 2>&1
[ -s work/help.txt ] || die "'$trtexec' says nothing to --help, or the disk is full"
known() { grep -q -E -e "^ *$1([ =,]|\$)" work/help.txt; }
known --onnx || die "'$trtexec' cannot be used: $(head -n 1 work/help.txt)"
need() {
    known "$1" || die "this trtexec has no $1, which the engine asked for needs: make the kit without"
}
for option in --saveEngine --loadEngine --timingCacheFile --profilingVerbosity \
    --exportLayerInfo --exportTimes --warmUp --duration; do
    need "$option"
done
if known --skipInference; then no_run=--skipInference; else no_run=--buildOnly; fi
need "$no_run"
# Networks are strongly typed where there is such an option, and from TensorRT 11 on without one.
typed=no
if known --stronglyTyped || ! known --fp16; then typed=yes; fi

# Lines of options.txt that begin with the word $1, without it.
chosen() { sed -n "s/^$1 //p" options.txt; }
if [ "$typed" = yes ]; then graph=$(chosen typed-graph); else graph=$(chosen flagged-graph); fi
[ -n "$graph" ] || die "this TensorRT takes types from the graph, and the kit has none in float16:" \
    "make it for this device's JetPack, --target NAME@JETPACK"
[ -f "$graph" ] || die "the graph '$graph' is missing: copy the kit again"
warm_up=$(chosen warm-up)
seconds=$(chosen seconds)

# --- This device ----------------------------------------------------------------------------------

packages() {
    # shellcheck disable=SC2016  # dpkg-query fills in the braces
    dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\n' 2>/dev/null |
        grep -E '^ii +(tensorrt|libnvinfer|libnvonnxparser|nvidia-l4t-core|nvidia-jetpack|cuda-cudart|libcudnn)'
}
power_mode() { nvpmodel -q 2>&1; }

# A build is carried on for the same kit, tools, packages and power mode alone; timings too.
{
    sha256sum kit.json "$trtexec"
    packages
    power_mode
    cat "$root/etc/nv_tegra_release"
} >work/key.new 2>/dev/null
if ! cmp -s work/key.new work/key; then
    rm -rf work/build work/built.sums work/timing.cache work/result
    mv work/key.new work/key || die "the folder cannot be written"
fi

# --- Build ----------------------------------------------------------------------------------------

child=
stopped() {
    [ -z "$child" ] || kill "$child" 2>/dev/null
    die "stopped; run it again to carry on"
}
trap stopped INT TERM HUP

# run LOG OPTION...: trtexec, its output in LOG.
run() {
    log=$1
    shift
    "$trtexec" "$@" >"$log" 2>&1 &
    child=$!
    wait "$child"
    code=$?
    child=
    [ "$code" -eq 0 ] && return
    { grep -F '[E]' "$log" || cat "$log"; } | tail -n 5 >&2
    [ "$code" -ne 137 ] || say "It was killed: most likely the memory was used up." >&2
    die "trtexec failed (exit code $code); all that it said is in $log"
}

if [ -f work/built.sums ] && (cd work/build && sha256sum -c ../built.sums) >/dev/null 2>&1; then
    say "The engine is built already; remove the folder 'work' to build it anew."
else
    rm -rf work/build work/built.sums
    mkdir work/build || die "the folder cannot be written"
    [ ! -f work/timing.cache ] || cp work/timing.cache work/build/ || die "the disk is full"
    set -- "--onnx=$graph" --saveEngine=work/build/model.engine \
        --timingCacheFile=work/build/timing.cache --profilingVerbosity=detailed \
        --exportLayerInfo=work/build/layers.json "$no_run"
    chosen build >work/build/options
    [ "$typed" = yes ] || chosen flagged >>work/build/options
    while IFS= read -r option; do
        need "${option%%=*}"
        set -- "$@" "$option"
    done <work/build/options
    [ "$typed" = no ] || ! known --stronglyTyped || set -- "$@" --stronglyTyped
    printf '%s\n' "$@" >work/build/build.args || die "the disk is full"
    say "Building the engine with $trtexec; this takes minutes (log: work/build/build.log)."
    begin=$(date +%s)
    run work/build/build.log "$@"
    build_seconds=$(($(date +%s) - begin))
    for file in model.engine timing.cache layers.json; do
        [ -s "work/build/$file" ] || die "trtexec wrote no $file; see work/build/build.log"
    done
    {
        say "kit_sha256 $(sha256sum <kit.json | sed 's/ .*//')"
        say "graph $graph"
        say "graph_sha256 $(sha256sum <"$graph" | sed 's/ .*//')"
        say "typed $typed"
        say "trtexec $trtexec"
        say "build_seconds $build_seconds"
    } >work/build/facts.txt || die "the disk is full"
    {
        cp work/build/timing.cache work/timing.new && mv work/timing.new work/timing.cache &&
            (cd work/build &&
                sha256sum model.engine timing.cache layers.json build.args build.log facts.txt) \
                >work/built.new && mv work/built.new work/built.sums
    } || die "the disk is full"
fi

# --- Measure --------------------------------------------------------------------------------------

for gpu in "$root"/sys/class/devfreq/*.gpu "$root"/sys/class/devfreq/*.g[apv]1*; do
    [ -r "$gpu/min_freq" ] && [ -r "$gpu/max_freq" ] || continue
    cmp -s "$gpu/min_freq" "$gpu/max_freq" ||
        say "Note: the GPU's clock follows the load. For steady figures: sudo jetson_clocks; run this again."
    break
done
out=work/result
rm -rf "$out"
mkdir "$out" || die "the folder cannot be written"
set -- --loadEngine=work/build/model.engine "--warmUp=$warm_up" "--duration=$seconds" \
    "--exportTimes=$out/times.json"
chosen measure >work/measure.options
while IFS= read -r option; do
    need "${option%%=*}"
    set -- "$@" "$option"
done <work/measure.options
# From TensorRT 11 on these have to be asked for; before, they are how trtexec measures.
for option in --includeDataTransfers --noCudaGraph --noSpinWait; do
    ! known "$option" || set -- "$@" "$option"
done
printf '%s\n' "$@" >"$out/measure.args" || die "the disk is full"
say "Measuring for $seconds seconds."
run "$out/measure.log" "$@"
[ -s "$out/times.json" ] || die "trtexec wrote no times; see $out/measure.log"

# --- The device's own words -----------------------------------------------------------------------

# keep PATH...: copies of small files of the device; those that cannot be read are left out.
keep() {
    for path in "$@"; do
        path=${path#"$root"}
        case $path in *[!A-Za-z0-9/_.+-]*) continue ;; esac
        [ -r "$root$path" ] && [ -f "$root$path" ] || continue
        mkdir -p "$out/device${path%/*}" || die "the disk is full"
        head -c 65536 "$root$path" >"$out/device$path" 2>/dev/null || rm -f "$out/device$path"
    done
}
keep "$root/proc/device-tree/model" "$root/proc/device-tree/compatible" "$root/proc/meminfo" \
    "$root/etc/nv_tegra_release" "$root/etc/nvpmodel.conf" "$root/var/lib/nvpmodel/status"
keep "$root"/sys/devices/system/cpu/cpufreq/policy*/affected_cpus \
    "$root"/sys/devices/system/cpu/cpufreq/policy*/scaling_*_freq \
    "$root"/sys/devices/system/cpu/cpufreq/policy*/scaling_governor \
    "$root"/sys/class/devfreq/*/*_freq "$root"/sys/class/devfreq/*/governor \
    "$root"/sys/class/thermal/thermal_zone*/type "$root"/sys/class/thermal/thermal_zone*/temp \
    "$root"/sys/class/thermal/cooling_device*/type \
    "$root"/sys/class/thermal/cooling_device*/cur_state
mkdir -p "$out/device/var/lib/dpkg" || die "the disk is full"
dpkg-query -s nvidia-l4t-core >"$out/device/var/lib/dpkg/status" 2>/dev/null
packages >"$out/packages.txt"
power_mode >"$out/nvpmodel.txt"
jetson_clocks --show >"$out/jetson_clocks.txt" 2>&1

# --- Pack -----------------------------------------------------------------------------------------

cp kit.json work/build/model.engine work/build/timing.cache work/build/layers.json \
    work/build/build.args work/build/build.log work/build/facts.txt "$out/" || die "the disk is full"
say "measured_at $(date -u +%Y-%m-%dT%H:%M:%SZ)" >>"$out/facts.txt" || die "the disk is full"
{
    (cd "$out" && find . -type f ! -name SHA256SUMS -exec sha256sum {} +) >work/found.sums &&
        sed 's,  \./,  ,' work/found.sums >"$out/SHA256SUMS"
} || die "the disk is full"
# The old result goes when the new one is whole; it never stands half under its name.
rm -rf work/old
[ ! -e result ] || mv result work/old || die "the folder 'result' cannot be replaced"
rm -f result.tar.gz
mv "$out" result || die "the folder cannot be written"
{ tar -czf work/result.tar.gz result && gzip -t work/result.tar.gz; } || die "the disk is full"
sync
mv work/result.tar.gz result.tar.gz || die "the folder cannot be written"
rm -rf work/old

sed -n 's/^.*\(Throughput: .*\)$/trtexec: \1/p;s/^.*\(GPU Compute Time: .*\)$/trtexec: \1/p' \
    result/measure.log
say "Done. Take result.tar.gz back; there: edgevision import-kit result.tar.gz --bundle BUNDLE"
