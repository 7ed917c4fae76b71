/**
 * Runs the image's layout as a container engine would, with what util-linux has: a root of its own that is read-only, the layout and the system's
 * C library, /proc and /dev in it and nothing else, another user, no capabilities. Each process ends with the test that started it.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createInterface } from "node:readline";

/** The C libraries stand in for the base image. The scratch tmpfs is read-only once the folders are in it. */
const enter = `
set -eu
PATH=$PATH:/usr/sbin:/sbin
layout=$1; shift
root=$(mktemp -d -p "$(dirname "$layout")")
mount -t tmpfs -o size=1m none "$root"
for folder in app nodejs lib lib64 usr usr/lib proc dev engine; do mkdir "$root/$folder"; done
cp -P "$layout/epp" "$layout/signalbox" "$root"
for folder in app nodejs; do
  mount --bind "$layout/$folder" "$root/$folder"
  mount -o remount,bind,ro "$root/$folder"
done
for folder in /lib /lib64 /usr/lib /proc /dev; do [ ! -d $folder ] || mount --rbind $folder "$root$folder"; done
: > "$root/engine/setpriv"
mount --bind "$(command -v setpriv)" "$root/engine/setpriv"
mount -o remount,bind,ro "$root"
exec env -i "PATH=/nodejs/bin" "$(command -v chroot)" "$root" \\
  /engine/setpriv --no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all "$@"
`;

function commandOf(layout: string, command: readonly string[]): readonly [string, readonly string[]] {
  const user = ["--user", "--map-user=65532", "--map-group=65532", "--keep-caps", "--mount"];
  return ["unshare", [...user, "sh", "-c", enter, "sh", layout, ...command]];
}

/** Runs to its end: what it printed on either stream, and its exit code. */
export function runInImage(layout: string, command: readonly string[]): { readonly status: number; output: string } {
  const [file, args] = commandOf(layout, command);
  const { status, stdout, stderr } = spawnSync(file, args, { encoding: "utf8", timeout: 60_000 });
  return { status: status ?? 1, output: stdout + stderr };
}

export interface Contained {
  readonly pid: number;
  readonly lines: readonly string[];
  /** The first line, of those printed and those to come, that the pattern matches; throws when it ends before. */
  line(pattern: RegExp): Promise<RegExpExecArray>;
  /** Exit code, or the signal's name. */
  stop(signal: NodeJS.Signals): Promise<number | NodeJS.Signals>;
}

export function startInImage(layout: string, command: readonly string[]): Contained {
  const [file, args] = commandOf(layout, command);
  const child: ChildProcess = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"] });
  const lines: string[] = [];
  const waiting = new Set<() => void>();
  const wake = (): void => {
    for (const look of waiting) look();
  };
  let isGone = false;
  const exited = new Promise<number | NodeJS.Signals>((resolve) => {
    child.once("exit", (code, signal) => resolve(code ?? signal ?? 1));
    child.once("error", () => resolve(127));
  }).finally(() => {
    isGone = true;
    wake();
  });
  for (const stream of [child.stdout, child.stderr]) {
    if (stream === null) continue;
    createInterface({ input: stream }).on("line", (line) => {
      lines.push(line);
      wake();
    });
  }
  return {
    pid: child.pid ?? 0,
    lines,
    line: (pattern) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const match = lines.map((line) => pattern.exec(line)).find((found) => found !== null);
          if (match === undefined && !isGone) return;
          waiting.delete(look);
          if (match === undefined) reject(new Error(`${command.join(" ")} ended:\n${lines.join("\n")}`));
          else resolve(match);
        };
        waiting.add(look);
        look();
      }),
    async stop(signal) {
      child.kill(signal);
      const stuck = setTimeout(() => child.kill("SIGKILL"), 30_000);
      const outcome = await exited;
      clearTimeout(stuck);
      return outcome;
    },
  };
}
