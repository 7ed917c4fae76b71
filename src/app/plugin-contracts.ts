/**
 * Makes `import { reject } from "signalbox/plugin"` mean this very program, wherever a user's plugin lies: nothing has to be installed beside
 * it, and attribute keys, which are compared by identity, are the picker's own.
 */
import { registerHooks } from "node:module";

const contractsUrl = new URL(
  import.meta.url.endsWith(".ts") ? "../scheduling/contracts.ts" : "../scheduling/contracts.js",
  import.meta.url,
).href;

/** For the whole process, before the first plugin is loaded. */
export function provideContracts(): void {
  registerHooks({
    resolve: (specifier, context, next) =>
      specifier === "signalbox/plugin" ? { url: contractsUrl, shortCircuit: true } : next(specifier, context),
  });
}
