/**
 * Property tests: fast-check with the seed of the gate, where it gives one. `make test` takes the seed from the commit, so that a commit which is green
 * is green wherever it is tried again, and each new one tries other cases. Without the gate every run tries its own.
 */
import fc from "fast-check";

const seed = Number(process.env["SIGNALBOX_PROPERTY_SEED"]);
if (Number.isInteger(seed)) fc.configureGlobal({ ...fc.readConfigureGlobal(), seed });

export default fc;
