"use strict";
(function () {
	var WIDTH = 100000, charts = [].slice.call(document.querySelectorAll("svg.time")), zoom = document.getElementById("zoom");
	var whole = Number(document.body.dataset.length), from = 0, to = WIDTH;
	/* as in html.c */
	var steps = [1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, .1, .2, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200,
		86400, 172800, 432000, 864000, 2592000, 8640000];
	function number(v) { return String(Number(v.toPrecision(4))); }
	function duration(s) {
		var units = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
		for (var i = 0; i < units.length; i++) {
			var u = units[i];
			if (s < u[0]) continue;
			var parts = Math.round(s / u[2] * 1000) / 1000, whole = Math.floor(parts / (u[0] / u[2])), rest = parts - whole * (u[0] / u[2]);
			return whole + " " + u[1] + (rest > 0 ? " " + number(rest) + " " + u[3] : "");
		}
		return s === 0 ? "0" : s >= 1 ? number(s) + " s" : number(s * 1000) + " ms";
	}
	function show() {
		var left = from / WIDTH * whole, length = (to - from) / WIDTH * whole, step = steps.find(function (s) { return length / s <= 6; }) || length / 6;
		charts.forEach(function (svg) {
			var axis = svg.parentNode.querySelector(".x");
			svg.setAttribute("viewBox", from + " 0 " + (to - from) + " " + svg.viewBox.baseVal.height);
			svg.style.overflow = "hidden";
			axis.textContent = "";
			for (var t = Math.ceil(left / step - 1e-9) * step; t <= left + length; t += step) {
				var span = document.createElement("span"), at = (t - left) / length * 100;
				span.textContent = duration(Math.round(t / step) * step);
				span.style.left = at + "%";
				if (at > 95) span.className = "last";
				if (at < 3) span.style.transform = "none";
				axis.appendChild(span);
			}
		});
	}
	charts.forEach(function (svg) {
		var band = null, begin = 0;
		function place(e) {
			var box = svg.getBoundingClientRect();
			return from + (to - from) * Math.min(1, Math.max(0, (e.clientX - box.left) / box.width));
		}
		svg.classList.add("drag");
		svg.addEventListener("pointerdown", function (e) {
			if (e.button || band) return;
			begin = place(e);
			band = document.createElementNS("http://www.w3.org/2000/svg", "rect");
			band.setAttribute("class", "band");
			band.setAttribute("height", svg.viewBox.baseVal.height);
			svg.appendChild(band);
			svg.setPointerCapture(e.pointerId);
		});
		svg.addEventListener("pointermove", function (e) {
			if (!band) return;
			var now = place(e);
			band.setAttribute("x", Math.min(begin, now));
			band.setAttribute("width", Math.abs(now - begin));
		});
		svg.addEventListener("pointercancel", function () { if (band) band.remove(); band = null; });
		svg.addEventListener("pointerup", function (e) {
			if (!band) return;
			var end = place(e), a = Math.min(begin, end), b = Math.max(begin, end);
			band.remove();
			band = null;
			if (b - a < (to - from) / 100 || b - a < 10) return;
			from = a;
			to = b;
			show();
		});
		svg.addEventListener("dblclick", function () { from = 0; to = WIDTH; show(); });
	});
	if (charts.length) {
		zoom.hidden = false;
		zoom.querySelector("button").addEventListener("click", function () { from = 0; to = WIDTH; show(); });
	}
	/* tables: a click on a heading sorts, another one turns it around */
	document.querySelectorAll("table").forEach(function (table) {
		var body = table.tBodies[0];
		[].forEach.call(table.tHead.rows[0].cells, function (th, column) {
			var button = document.createElement("button");
			button.type = "button";
			button.textContent = th.textContent;
			th.textContent = "";
			th.appendChild(button);
			if (body.rows.length && body.rows[0].cells[column] && body.rows[0].cells[column].className === "r") th.className = "r";
			button.addEventListener("click", function () {
				var up = th.getAttribute("aria-sort") !== "ascending";
				function key(row) {
					var cell = row.cells[column];
					return !cell ? "" : cell.dataset.k !== undefined ? Number(cell.dataset.k) : cell.className === "r" ? Infinity * (up ? 1 : -1) : cell.textContent;
				}
				[].forEach.call(table.tHead.rows[0].cells, function (other) { other.removeAttribute("aria-sort"); });
				th.setAttribute("aria-sort", up ? "ascending" : "descending");
				[].slice.call(body.rows).map(function (row) { return [key(row), row]; }).sort(function (a, b) {
					return (a[0] > b[0] ? 1 : a[0] < b[0] ? -1 : 0) * (up ? 1 : -1);
				}).forEach(function (pair) { body.appendChild(pair[1]); });
				[].forEach.call(body.querySelectorAll("td.again"), function (cell) { cell.className = ""; });
			});
		});
	});
}());
