/** Every scheduling plugin that comes with the package. */
import type { PluginDefinition } from "./contracts.ts";
import { singleProfileHandler } from "./plugins/handlers/single-profile-handler.ts";
import { maxScorePicker } from "./plugins/pickers/max-score-picker.ts";
import { randomPicker } from "./plugins/pickers/random-picker.ts";
import { weightedRandomPicker } from "./plugins/pickers/weighted-random-picker.ts";
import { kvCacheUtilizationScorer } from "./plugins/scorers/kv-cache-utilization-scorer.ts";
import { prefixCacheScorer } from "./plugins/scorers/prefix-cache-scorer.ts";
import { queueScorer } from "./plugins/scorers/queue-scorer.ts";
import { runningRequestsSizeScorer } from "./plugins/scorers/running-requests-size-scorer.ts";

export const builtinPlugins: readonly PluginDefinition[] = [
  queueScorer,
  runningRequestsSizeScorer,
  kvCacheUtilizationScorer,
  prefixCacheScorer,
  maxScorePicker,
  randomPicker,
  weightedRandomPicker,
  singleProfileHandler,
];
