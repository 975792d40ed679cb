// Draws the pad into `element`. Names are text, never HTML.
const root = element.querySelector('.emotion_pad');
const words = props.words[navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en'];
const place = (node, x, y) => { node.style.left = `${50 + 43 * x}%`; node.style.top = `${50 - 41 * y}%`; };
const made = (kind, name, text) => {
  const node = Object.assign(document.createElement(kind), { className: name });
  if (text) node.textContent = text;
  root.append(node);
  return node;
};
for (const axis of ['pleasant', 'unpleasant', 'calm', 'excited']) made('span', `pad-axis pad-${axis}`, words[`pad_${axis}`]).ariaHidden = 'true';

const faces = props.places.map(([name, x, y], index) => {
  const button = made('button', 'pad-face');
  button.type = 'button';
  button.dataset.emotion = name;
  button.innerHTML = '<i></i><b></b>';
  button.querySelector('b').textContent = words[name];
  button.querySelector('i').style.setProperty('--tile', index);
  place(button, x, y);
  button.addEventListener('click', (event) => { if (event.detail === 0) put(x, y); });  // with the keyboard
  return { button, name, x, y };
});
const dot = made('div', 'pad-dot');
dot.tabIndex = 0;
for (const [key, value] of Object.entries({ role: 'slider', 'aria-label': words.pad, 'aria-valuemin': -1, 'aria-valuemax': 1 }))
  dot.setAttribute(key, value);

let picture = null, dragging = false, sent = 0, waiting = null, point = { x: 0, y: 0 };
const show = ({ x, y, exact }) => {
  point = { x, y };
  dot.classList.toggle('pad-near', exact === false);  // a mixture of the sliders that no point stands for
  place(dot, x, y);
  dot.setAttribute('aria-valuenow', x);
  const near = faces.map((face) => [Math.hypot(face.x - x, face.y - y), words[face.name]]).sort((a, b) => a[0] - b[0]);
  dot.setAttribute('aria-valuetext', near[0][0] < 0.08 ? near[0][1] : `${near[0][1]}, ${near[1][1]}`);
  for (const face of faces) face.button.ariaPressed = Math.hypot(face.x - x, face.y - y) < 0.08;
};
const send = () => {
  sent = Date.now();
  waiting = null;
  props.value = { x: point.x, y: point.y };
  trigger('input');
};
const put = (x, y) => {
  const limit = (value) => Math.round(1000 * Math.min(1, Math.max(-1, value))) / 1000;
  show({ x: limit(x), y: limit(y) });
  waiting ??= setTimeout(send, Math.max(0, 120 - (Date.now() - sent)));  // not at every pixel
};
const at = (event) => {
  const box = root.getBoundingClientRect();
  return [(100 * (event.clientX - box.left) / box.width - 50) / 43, (50 - 100 * (event.clientY - box.top) / box.height) / 41];
};
let start = null;
root.addEventListener('pointerdown', (event) => {
  if (event.button) return;
  start = { x: event.clientX, y: event.clientY, face: faces.find((face) => face.button.contains(event.target)) };
  dragging = true;
  root.setPointerCapture(event.pointerId);
  if (!start.face) put(...at(event));
});
root.addEventListener('pointermove', (event) => {
  if (!dragging) return;
  if (start.face && Math.hypot(event.clientX - start.x, event.clientY - start.y) < 6) return;  // a click on a face
  start.face = null;
  put(...at(event));
});
const end = () => {
  if (!dragging) return;
  dragging = false;
  if (start.face) put(start.face.x, start.face.y);
};
root.addEventListener('pointerup', end);
root.addEventListener('pointercancel', end);
dot.addEventListener('keydown', (event) => {
  const [x, y] = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1], Home: [null] }[event.key] ?? [];
  if (x === undefined) return;
  event.preventDefault();
  if (x === null) put(0, 0); else put(point.x + x, point.y + y);
});
const draw = () => {
  if (props.faces !== picture) {
    picture = props.faces;
    root.style.setProperty('--faces', picture ? `url("${picture}")` : 'none');
  }
  if (!dragging && waiting === null && props.value) show(props.value);
};
draw();
watch(['value', 'faces'], draw);
