// Prints what zarrita reads of the arrays of a Zarr group: shape, data type, SHA-256 of the values.
// node read_zarr.mjs GROUP ARRAY...
import { createHash } from "node:crypto";

import FileSystemStore from "@zarrita/storage/fs";
import * as zarr from "zarrita";

const [group, ...names] = process.argv.slice(2);
const root = zarr.root(new FileSystemStore(group));
const found = {};
for (const name of names) {
  const array = await zarr.open.v3(root.resolve(name), { kind: "array" });
  const { data } = await zarr.get(array);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const digest = createHash("sha256").update(bytes).digest("hex");
  found[name] = { shape: array.shape, dtype: array.dtype, digest };
}
console.log(JSON.stringify(found));
