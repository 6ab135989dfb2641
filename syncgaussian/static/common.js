// What every widget of the course shares. Python puts this text in front of a widget's own file, so that each widget is one plain module.

const bytes = view => view.buffer.slice(view.byteOffset, view.byteOffset+view.byteLength)
const clamp = (x, lo, hi) => Math.min(hi, Math.max(lo, x))
const clock = t => `${Math.floor(t/60)}:${(t%60).toFixed(1).padStart(4, '0')}`
function h(tag, attrs = {}, ...children) {
  const node = document.createElement(tag)
  for (const [k, v] of Object.entries(attrs)) k in node && typeof v !== 'string' ? node[k] = v : node.setAttribute(k, v)
  node.append(...children)
  return node
}
function line(context, style, width, ...points) {
  context.strokeStyle = style; context.lineWidth = width; context.beginPath()
  points.forEach(([x, y], i) => i ? context.lineTo(x, y) : context.moveTo(x, y)); context.stroke()
}

function ties(model) {  // listeners that leave with the view, settings that are saved a little later, the still, the theme
  const undo = []
  const on = (node, event, f, options) => { node.addEventListener(event, f, options); undo.push(() => node.removeEventListener(event, f, options)) }
  const watch = (name, f) => { model.on(name, f); undo.push(() => model.off(name, f)) }
  const get = name => model.get(name)
  const set = (name, value) => { model.set(name, value); model.save_changes() }
  let late, pending = {}
  const setSoon = values => {
    Object.assign(pending, values); clearTimeout(late)
    late = setTimeout(() => { for (const k in pending) model.set(k, pending[k]); pending = {}; model.save_changes() }, 120)
  }
  const showStill = image => {
    let url
    const pull = () => {
      const data = get('still')
      URL.revokeObjectURL(url)
      image.hidden = !data?.byteLength
      if (data?.byteLength) image.src = url = URL.createObjectURL(new Blob([bytes(data)], {type: 'image/png'}))
    }
    pull(); watch('change:still', pull); undo.push(() => URL.revokeObjectURL(url))
  }
  const redraw = (root, touch) => {  // when the widget gets another size, or the page another theme
    const watcher = new ResizeObserver(touch), theme = new MutationObserver(() => setTimeout(touch, 500))
    watcher.observe(root); theme.observe(document.body, {attributes: true, attributeFilter: ['data-jp-theme-name']})
    undo.push(() => { watcher.disconnect(); theme.disconnect() })
  }
  const leave = () => { clearTimeout(late); undo.forEach(f => f()) }
  return {on, watch, get, set, setSoon, showStill, redraw, leave}
}

