/** Objectives and model rewrites of one pool as routing reads them, whichever source they come from. Replaced as a whole, never changed. */

export interface Objective {
  /** Higher is more important; negative is sheddable. */
  readonly priority: number;
}

export interface RewriteTarget {
  readonly model: string;
  /** 1..1,000,000; undefined where the object gives none. */
  readonly weight: number | undefined;
}

export interface RewriteRule {
  /** Exact names of the incoming model, any of which matches; empty for a generic rule, which matches every model. */
  readonly models: readonly string[];
  /** Empty where the object names none: the rule then changes nothing. */
  readonly targets: readonly RewriteTarget[];
}

export interface ModelRewrite {
  readonly name: string;
  readonly rules: readonly RewriteRule[];
}

export interface PoolObjects {
  /** By object name, which is what the objective header holds. */
  readonly objectives: ReadonlyMap<string, Objective>;
  /** Oldest first: an earlier one wins. */
  readonly rewrites: readonly ModelRewrite[];
}

export const noPoolObjects: PoolObjects = Object.freeze({ objectives: new Map(), rewrites: [] });
