// Run by Node in the folder of an environment: `reads.mjs files.json` prints what hyparquet finds in each file.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const from = createRequire(process.cwd() + '/')
const load = async name => import(pathToFileURL(from.resolve(name)))
const { asyncBufferFromFile, parquetReadObjects } = await load('hyparquet')
const { compressors } = await load('hyparquet-compressors')

const plain = value => {
  if (typeof value === 'bigint') return Number(value)
  if (value instanceof Uint8Array) return Buffer.from(value).toString('latin1')
  if (value === undefined) return null
  return Array.isArray(value) || ArrayBuffer.isView(value) ? Array.from(value, plain) : value
}
const found = {}
for (const [kind, path] of Object.entries(JSON.parse(readFileSync(process.argv[2], 'utf8')))) {
  try {
    const rows = await parquetReadObjects({ file: await asyncBufferFromFile(path), compressors, utf8: kind !== 'shard' })
    const columns = {}
    for (const row of rows) for (const [name, value] of Object.entries(row)) (columns[name] ??= []).push(plain(value))
    found[kind] = { columns }
  } catch (error) {
    found[kind] = { error: `${error.name}: ${error.message.split('\n')[0].slice(0, 200)}` }
  }
}
console.log(JSON.stringify(found))
