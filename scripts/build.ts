/** Compiles src/ to dist/ for the npm package and the image: plain JavaScript, since Node strips no types below node_modules. */
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";

rmSync("dist", { recursive: true, force: true });
const run = spawnSync(process.execPath, ["node_modules/.bin/tsc", "-p", "tsconfig.build.json"], { stdio: "inherit" });
process.exitCode = run.status ?? 1;
